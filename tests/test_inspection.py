"""inspect: numbers of every layer's input, and of the step on it."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import insgd_optax as insgd

ROWS = np.random.default_rng(0).normal(size=(40, 6)) @ np.diag([3, 1, 1, 0.5, 0.2, 2.0]) + 1.5
WEIGHTS = np.random.default_rng(1).normal(size=(6, 3))


def _loss(params, rows):
    return jnp.sum(jnp.tanh(rows @ params["kernel"]))


def _found(structure, updates=None):
    params = {"kernel": jnp.asarray(WEIGHTS)}
    grad_fn = insgd.value_and_grad(_loss, structure=structure)
    _, _, input_stats = grad_fn(params, jnp.asarray(ROWS))
    return insgd.inspect(params, input_stats, updates=updates)


def _second_moment(structure) -> np.ndarray:
    """A as the structure keeps it."""
    moment, mean = ROWS.T @ ROWS / len(ROWS), ROWS.mean(axis=0)
    squares = np.diag(moment)
    match structure:
        case insgd.MeanVariances():
            return np.diag(squares - mean**2) + np.outer(mean, mean)
        case insgd.MeanVariance():
            variance = np.mean(squares - mean**2)
            return variance * np.eye(6) + np.outer(mean, mean)
        case insgd.Diagonal():
            return np.diag(squares)
        case _:
            return moment


KEPT = (
    insgd.MeanVariances(),
    insgd.MeanVariance(),
    insgd.Diagonal(),
    insgd.Full(rows=None),
    insgd.LowRank(rank=6, rows=None),  # exact at full rank
)


@pytest.mark.parametrize("structure", KEPT, ids=lambda each: type(each).__name__)
def test_the_numbers_are_those_of_the_second_moment_that_is_kept(structure):
    found, moment = _found(structure), _second_moment(structure)
    trace = np.trace(moment)
    tolerance = 1e-10 if not isinstance(structure, insgd.LowRank) else 1e-6
    rank = trace**2 / np.sum(moment**2)
    np.testing.assert_allclose(found["kernel/effective_rank"], rank, rtol=tolerance)
    np.testing.assert_allclose(found["kernel/input_power"], trace / 6, rtol=1e-10)
    size = np.sqrt(np.diag(moment) @ WEIGHTS**2 @ np.ones(3) / 3)
    np.testing.assert_allclose(found["kernel/output_size"], size, rtol=1e-10)
    if "kernel/mean_share" in found:
        share = np.sum(ROWS.mean(axis=0) ** 2) / trace
        np.testing.assert_allclose(found["kernel/mean_share"], share, rtol=1e-10)


def test_one_number_a_layer_tells_nothing_of_directions():
    assert list(_found(insgd.Scalar())) == ["kernel/input_power", "kernel/output_size"]


def test_the_step_is_the_share_of_the_layers_output():
    updates = {"kernel": jnp.asarray(-0.02 * WEIGHTS)}
    found = _found(insgd.Full(rows=None), updates)
    np.testing.assert_allclose(found["kernel/step"], 0.02, rtol=1e-10)


def test_a_batch_of_zeros_gives_zeros():
    params = {"kernel": jnp.asarray(WEIGHTS)}
    _, grads, input_stats = insgd.value_and_grad(_loss)(params, jnp.zeros((4, 6)))
    found = insgd.inspect(params, input_stats, updates=grads)
    assert {float(value) for value in found.values()} == {0.0}


@pytest.mark.framework
def test_every_layer_of_a_network_has_an_entry_inside_of_jit():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, tokens):
            embedded = nn.Embed(11, 8)(tokens)
            hidden = nn.relu(nn.Conv(4, (3,))(embedded))
            return nn.Dense(5)(hidden.mean(axis=1))

    tokens = jnp.arange(12).reshape(2, 6) % 11
    params = Net().init(jax.random.key(0), tokens)["params"]
    optimizer = insgd.insgd()

    @jax.jit
    def step(params, state):
        grad_fn = insgd.value_and_grad(lambda p, x: jnp.sum(Net().apply({"params": p}, x) ** 2))
        _, grads, input_stats = grad_fn(params, tokens)
        updates, state = optimizer.update(grads, state, params, input_stats=input_stats)
        return insgd.inspect(params, input_stats, updates=updates)

    found = step(params, optimizer.init(params))
    layers = {name.rsplit("/", 1)[0] for name in found}
    assert layers == {"Embed_0/embedding", "Conv_0/kernel", "Dense_0/kernel"}
    assert all(np.isfinite(value) and np.shape(value) == () for value in found.values())
    assert 0 < found["Dense_0/kernel/step"] < 0.1


def test_statistics_of_other_parameters_are_an_error_that_names_the_path():
    _, _, input_stats = insgd.value_and_grad(_loss)({"kernel": WEIGHTS}, jnp.asarray(ROWS))
    with pytest.raises(ValueError, match=r"input_stats has \['kernel'\], but params does not"):
        insgd.inspect({"head": jnp.asarray(WEIGHTS)}, input_stats)


def test_the_figure_has_a_panel_for_each_number_and_a_line_for_each_layer():
    records = [_found(insgd.MeanVariances(), {"kernel": jnp.ones((6, 3))}) for _ in range(3)]
    figure = insgd.plots.layers(records, steps=[0, 10, 20])
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == list(insgd.plots.PANELS.values())
    (line,) = figure.axes[0].get_lines()
    assert line.get_label() == "kernel"
    np.testing.assert_allclose(line.get_ydata(), [records[0]["kernel/input_power"]] * 3)
    with pytest.raises(ValueError, match="3 records for 2 steps"):
        insgd.plots.layers(records, steps=[0, 1])
