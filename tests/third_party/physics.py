"""Graphs, equivariant nets, flows, differential equations and other scientific nets."""

import equinox as eqx
import haiku as hk
import jax
import jax.numpy as jnp

from third_party.model import Model, model, of_equinox, of_haiku, of_linen
from zoo.case import inputs

POINTS = inputs(0, (6, 4), "float32")


@model("jraph")
def jraph_interaction_network() -> Model:
    import jraph

    nodes, edges = inputs(0, (5, 3), "float32"), inputs(1, (8, 2), "float32")
    senders = jnp.asarray([0, 1, 2, 3, 4, 0, 2, 4])
    receivers = jnp.asarray([1, 2, 3, 4, 0, 3, 0, 2])

    def forward(nodes: jax.Array, edges: jax.Array) -> jax.Array:
        graph = jraph.GraphsTuple(
            nodes, edges, receivers, senders, None, jnp.asarray([5]), jnp.asarray([8])
        )
        for _ in range(2):
            edges = jraph.concatenated_args(hk.nets.MLP([6, 4]))
            graph = jraph.InteractionNetwork(edges, jraph.concatenated_args(hk.nets.MLP([5, 3])))(
                graph
            )
        return graph.nodes

    return of_haiku(forward, nodes, edges)


@model("e3nn_jax")
def e3nn_equivariant_net() -> Model:
    import e3nn_jax as e3nn

    def forward(positions: jax.Array, features: jax.Array) -> jax.Array:
        harmonics = e3nn.spherical_harmonics("0e + 1o + 2e", positions, normalize=True)
        x = e3nn.haiku.Linear("4x0e + 3x1o")(e3nn.IrrepsArray("4x0e", features))
        x = e3nn.tensor_product(x, harmonics)
        x = e3nn.gate(e3nn.haiku.Linear("8x0e + 3x1o")(x))
        return e3nn.haiku.Linear("2x0e + 1o")(x).array

    return of_haiku(forward, inputs(1, (6, 3), "float32"), POINTS)


@model("diffrax")
def diffrax_neural_ode() -> Model:
    import diffrax

    field = eqx.nn.MLP(4, 4, 6, 1, activation=jnp.tanh, key=jax.random.key(0))

    def apply(field, starts):
        def solved(start):
            term = diffrax.ODETerm(lambda t, y, args: field(y))
            return diffrax.diffeqsolve(term, diffrax.Heun(), 0.0, 0.5, 0.1, start).ys

        return jax.vmap(solved)(starts)

    return of_equinox(field, POINTS, apply=apply, unseen="in a compiled loop")


@model("flowjax")
def flowjax_autoregressive_flow() -> Model:
    from flowjax.distributions import Normal
    from flowjax.flows import masked_autoregressive_flow

    flow = masked_autoregressive_flow(
        jax.random.key(0), base_dist=Normal(jnp.zeros(4)), flow_layers=2, nn_width=6
    )
    return of_equinox(
        flow, POINTS, apply=lambda flow, points: flow.log_prob(points), unseen="masked"
    )


@model("foundax")
def foundax_fourier_operator() -> Model:
    from foundax.architectures.fno import FNO2D

    net = FNO2D(2, 6, 3, n_layers=2, d_model=(8, 8), key=jax.random.key(0))
    return of_equinox(net, inputs(0, (3, 1, 8, 8, 2), "float32"))


@model("netket")
def netket_autoregressive_net() -> Model:
    import netket

    net = netket.models.ARNNDense(
        hilbert=netket.hilbert.Spin(0.5, 4), layers=2, features=5, param_dtype=jnp.float32
    )
    return of_linen(
        net, jnp.asarray([[1.0, -1, 1, 1], [-1, 1, 1, -1], [1, 1, -1, -1]]), unseen="masked"
    )


@model("netket")
def netket_boltzmann_machine() -> Model:
    import netket

    net = netket.models.RBM(alpha=2, param_dtype=jnp.float32)
    return of_linen(net, POINTS)


@model("ott")
def ott_convex_net() -> Model:
    from ott.neural.networks.icnn import ICNN

    return of_linen(ICNN(4, (6, 5), pos_weights=True), POINTS)
