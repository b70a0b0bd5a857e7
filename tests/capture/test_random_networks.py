"""Random networks: the capture against a plain run in which every operation tells its operands."""

import jax
import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import insgd_optax as insgd
from zoo.random_networks import Network, networks
from zoo.recorded import recorded

GRADIENT = {"float32": 1e-6, "float64": 1e-12}
POWER = {"float32": 1e-5, "float64": 1e-10}
few = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    phases=[Phase.generate],  # what fails is small already, and every network is compiled
    suppress_health_check=[HealthCheck.too_slow],
)


def check(network: Network) -> None:
    params, x = network.params(), network.inputs()
    grad_fn = insgd.value_and_grad(network.loss, structure=insgd.Diagonal())
    if network.looked_up and network.batch == 0:
        with pytest.raises(ValueError, match=r"no rows \(shape \(0, 3\)\)"):
            grad_fn(params, x)
        return
    both = jax.jit(lambda *args: (grad_fn(*args), jax.value_and_grad(network.loss)(*args)))
    try:
        (value, grads, input_stats), expected = both(params, x)
    except ValueError as error:
        assert network.may_lose_convolutions(), error
        assert "no rows (shape (0, 3, 4))" in str(error), error
        return
    _check_gradients(network, (value, grads), expected)
    met = recorded(network.loss, params, x)
    for path, moments in input_stats.items():
        if moments is None:
            assert not met[path].rows.any(), path
        elif moments.layout.exact:
            _check_power(network, path, moments, met[path])
        else:
            assert np.isfinite(moments.sums).all(), path
            assert path in network.mixed(), path


def _check_gradients(network: Network, found: object, expected: object) -> None:
    # What is compiled is compiled with other results, and rounds elsewhere in half precision.
    tolerance = 0.05 if network.half else GRADIENT[network.dtype]

    def check_leaf(one: jax.Array, other: jax.Array) -> None:
        scale = np.max(np.abs(np.asarray(other)), initial=0)
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)

    jax.tree.map(check_leaf, found, expected)


def _check_power(network: Network, path: str, moments: insgd.InputMoments, met: object) -> None:
    if network.batch == 0:
        assert not np.any(moments.count) and not met.rows.any(), path
        return
    assert met.rows.all(), path
    tolerance = 0.02 if network.half else POWER[network.dtype]
    power = np.asarray(moments.per_weight(), np.float64)
    scale = np.max(met.mean_square)
    np.testing.assert_allclose(power, met.mean_square, 0, tolerance * scale, err_msg=path)


@few
@given(networks)
def test_random_networks_have_their_gradients_and_what_each_weight_met(network: Network):
    check(network)


@pytest.mark.long
@pytest.mark.parametrize("part", range(10))
def test_many_random_networks_have_their_gradients_and_what_each_weight_met(part: int):
    @seed(part)
    @settings(few, max_examples=20, derandomize=False, database=None)
    @given(networks)
    def checked(network: Network) -> None:
        check(network)

    checked()
