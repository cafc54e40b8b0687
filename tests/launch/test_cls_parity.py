"""The same gradients and weights however a classifier's step is spread: DDP, accumulation, ZeRO-1, 2 and 3, beside a
plain loop over whole batches in one process."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from tests.helpers.cls_parity_job import (
    BETAS,
    L2,
    LOOKS,
    RESUMED,
    SAVED,
    STEPS,
    dcnn,
    freeze_all_but_the_last_layer,
    global_batch,
    learning_rate,
    with_batch_norm,
)
from tests.helpers.launching import CLONE, launch
from tests.helpers.parity import largest_difference, largest_share

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

RUNS: dict[str, dict[str, Any]] = {"whole": {"parts": 1}, "in 2 parts": {"parts": 2}}
FROZEN, RESUMED_RUN = "frozen", "resumed"
MODES = {
    "DDP": "cpu2.yaml",
    "ZeRO-1": "zero1_cpu.yaml",
    "ZeRO-2": "zero2_cpu.yaml",
    "ZeRO-3": "zero3_cpu.yaml",
    "ZeRO-3, no weight whole": "written by the test",
}
# By default all weights of a network this small stay whole on every rank; and Adam updates them in several groups.
ALL_PARTITIONED = {"stage": 3, "stage3_param_persistence_threshold": 0, "sub_group_size": 300}
# Of a layer's largest gradient, in float32, whose sums come in another order: 3e-6 measured. A step on one rank's
# images alone is off by 5.
GRADIENT_TOLERANCE = 1e-4
# After 20 steps of up to 1e-3 each: 6e-8 measured, and 7e-3 to 1e-2 on one rank's images alone, without L2, and with
# L2 on biases too.
WEIGHT_TOLERANCE = 1e-5
Found = dict[str, Any]


def reference(
    steps: int = STEPS,
    *,
    images: slice = slice(None),
    weights_l2: float = L2,
    biases_l2: float = 0.0,
    start: Found | None = None,
    prepare: Callable[[nn.Module], None] | None = None,
) -> Found:
    """The plain loop: gradients of each step, weights after some, Adam's state after SAVED of them."""
    network = dcnn()
    if prepare is not None:
        prepare(network)
    named = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    adam = torch.optim.Adam(
        [
            {"params": [w for name, w in named if name.endswith("weight")], "weight_decay": weights_l2},
            {"params": [w for name, w in named if name.endswith("bias")], "weight_decay": biases_l2},
        ],
        learning_rate(0),
        BETAS,
    )
    found: Found = {"gradients": {}, "weights": {}, "fresh": copy.deepcopy(adam.state_dict())}
    if start is not None:
        for weight, value in zip(network.parameters(), start["weights"], strict=True):
            weight.data.copy_(value)
        adam.load_state_dict(start["optimizer"])
    for step in range(0 if start is None else SAVED, steps):
        pixels, labels = global_batch(step)
        adam.zero_grad()
        cross_entropy(network(pixels[images]), labels[images]).backward()
        for group in adam.param_groups:
            group["lr"] = learning_rate(step)
        adam.step()
        found["gradients"][step] = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        if step in LOOKS:
            found["weights"][step] = [weight.detach().clone() for weight in network.parameters()]
        if step == SAVED - 1:
            found["optimizer"] = copy.deepcopy(adam.state_dict())
    return found


def gradient_difference(ours: Found, theirs: Found) -> float:
    """The largest difference of a gradient in any of our steps, as a fraction of its layer's largest."""
    return max(
        largest_share(gradients, theirs["gradients"][step]) for step, gradients in ours["gradients"].items()
    )


def weight_difference(ours: Found, theirs: Found, step: int) -> float:
    """The largest difference of a weight after a step."""
    return largest_difference(ours["weights"][step], theirs["weights"][step])


@pytest.fixture(scope="module")
def plain(one_thread: None) -> Found:
    return reference()


def saved_by(found: Found) -> Found:
    return {"weights": found["weights"][SAVED - 1], "optimizer": found["optimizer"]}


@pytest.fixture(scope="module", params=MODES)
def spread(request: pytest.FixtureRequest, plain: Found, tmp_path_factory: Any) -> Found:
    """What two processes found, all runs in one job."""
    folder, config = tmp_path_factory.mktemp("parity"), MODES[request.param]
    if request.param not in ("DDP", "ZeRO-1", "ZeRO-2", "ZeRO-3"):
        (folder / "ds.json").write_text(json.dumps({"zero_optimization": ALL_PARTITIONED}))
        given = (CLONE / "configs/accelerate/zero3_cpu.yaml").read_text()
        config = str(folder / "zero3.yaml")
        Path(config).write_text(given.replace("configs/deepspeed/zero3.json", str(folder / "ds.json")))
    torch.save(saved_by(plain), folder / "saved")
    runs = {
        **RUNS,
        FROZEN: {"frozen": True, "steps": SAVED},
        RESUMED_RUN: {"parts": 2, "steps": RESUMED, "resume": str(folder / "saved")},
    }
    job = json.dumps({"out": str(folder / "found"), "runs": runs})
    done = launch("../tests/helpers/cls_parity_job.py", job, cwd=folder, processes=2, config=config)
    assert done.returncode == 0, done.stdout + done.stderr
    return {**torch.load(folder / "found", weights_only=True), "mode": request.param}


@pytest.mark.parametrize("name", RUNS)
def test_gradients_and_weights_are_those_of_a_plain_loop(name: str, spread: Found, plain: Found) -> None:
    ours = spread[name]
    assert list(ours["gradients"]) == list(range(STEPS)) and list(ours["weights"]) == list(LOOKS)
    assert gradient_difference(ours, plain) < GRADIENT_TOLERANCE
    for step in LOOKS:
        assert weight_difference(ours, plain, step) < WEIGHT_TOLERANCE


def test_the_tolerances_tell_a_wrong_step(plain: Found) -> None:
    half = reference(images=slice(0, None, 2))
    assert gradient_difference(half, plain) > 10_000 * GRADIENT_TOLERANCE
    for wrong in (half, reference(weights_l2=0), reference(biases_l2=L2)):
        assert weight_difference(wrong, plain, STEPS - 1) > 500 * WEIGHT_TOLERANCE


def test_every_rank_has_the_same_whole_weights(spread: Found) -> None:
    for name in RUNS:
        first, second = spread[name]["of ranks"]
        for ours, of_rank_0, of_rank_1 in zip(spread[name]["weights"][STEPS - 1], first, second, strict=True):
            assert torch.equal(ours, of_rank_0) and torch.equal(ours, of_rank_1)


def test_zero_3_partitions_the_weights(spread: Found) -> None:
    """Those above the threshold; all of this network are below that of zero3_cpu.yaml."""
    are_partitioned = spread["mode"] == "ZeRO-3, no weight whole"
    assert [spread[name]["partitioned"] for name in RUNS] == [[are_partitioned] * 8] * len(RUNS)
    shared = {"DDP": "", "ZeRO-1": ", ZeRO-1", "ZeRO-2": ", ZeRO-2"}.get(spread["mode"], ", ZeRO-3")
    assert spread["described"] == f"2 processes on CPU, 1 thread each, fp32{shared}"


def test_the_optimizers_state_is_adams_own(spread: Found, plain: Found) -> None:
    """So a checkpoint needs nothing of DeepSpeed's, and moves between DDP, ZeRO and any number of ranks."""
    theirs = plain["optimizer"]
    for name in RUNS:
        assert spread[name]["fresh"] == plain["fresh"]
        ours = spread[name]["optimizer"]
        assert ours["param_groups"] == theirs["param_groups"]
        assert ours["state"].keys() == theirs["state"].keys() == set(range(8))
        for number, of_weight in theirs["state"].items():
            assert ours["state"][number].keys() == of_weight.keys() == {"step", "exp_avg", "exp_avg_sq"}
            assert float(ours["state"][number]["step"]) == SAVED
            for key in ("exp_avg", "exp_avg_sq"):
                scale = float(of_weight[key].abs().max())
                torch.testing.assert_close(
                    ours["state"][number][key], of_weight[key], rtol=0, atol=GRADIENT_TOLERANCE * scale
                )


def test_what_one_process_saved_two_go_on_from(spread: Found, plain: Found) -> None:
    ours, given = spread[RESUMED_RUN], saved_by(plain)
    assert ours["loaded"]["optimizer"]["param_groups"] == given["optimizer"]["param_groups"]
    for number, of_weight in given["optimizer"]["state"].items():
        for key, value in of_weight.items():
            assert torch.equal(ours["loaded"]["optimizer"]["state"][number][key], value), (number, key)
    assert all(torch.equal(a, b) for a, b in zip(ours["loaded"]["weights"], given["weights"], strict=True))
    assert list(ours["gradients"]) == list(range(SAVED, RESUMED))
    assert gradient_difference(ours, plain) < GRADIENT_TOLERANCE
    assert weight_difference(ours, plain, RESUMED - 1) < WEIGHT_TOLERANCE


def test_what_two_processes_saved_one_goes_on_from(spread: Found) -> None:
    for name in RUNS:
        on = reference(start=saved_by(spread[name]))
        assert list(on["gradients"]) == list(range(SAVED, STEPS))
        assert gradient_difference(on, spread[name]) < GRADIENT_TOLERANCE
        assert weight_difference(on, spread[name], STEPS - 1) < WEIGHT_TOLERANCE


def test_frozen_parameters_keep_their_bits_and_the_others_train(spread: Found) -> None:
    ours, theirs = spread[FROZEN], reference(SAVED, prepare=freeze_all_but_the_last_layer)
    before = [weight.detach() for weight in dcnn().parameters()]
    after = ours["weights"][SAVED - 1]
    assert [torch.equal(a, b) for a, b in zip(before, after, strict=True)] == [True] * 6 + [False] * 2
    assert gradient_difference(ours, theirs) < GRADIENT_TOLERANCE
    assert weight_difference(ours, theirs, SAVED - 1) < WEIGHT_TOLERANCE
    assert ours["optimizer"]["param_groups"] == theirs["optimizer"]["param_groups"]
    assert ours["optimizer"]["state"].keys() == {0, 1}


def batch_norm_reference() -> tuple[dict[str, Tensor], list[dict[str, Tensor]]]:
    """Weights after SAVED steps, and the statistics of two ranks, each of which sees every second image."""
    network = with_batch_norm()
    ranks = [{name: values.clone() for name, values in network.named_buffers()} for _ in range(2)]
    weights = dict(network.named_parameters())
    decayed = ("0.weight", "4.weight")
    groups: list[dict[str, Any]] = [
        {"params": [weights[name] for name in decayed], "weight_decay": L2},
        {"params": [weights[name] for name in weights if name not in decayed]},
    ]
    adam = torch.optim.Adam(groups, learning_rate(0), BETAS)
    for step in range(SAVED):
        images, labels = global_batch(step)
        losses = [
            cross_entropy(
                functional_call(network, {**weights, **buffers}, (images[rank::2],)), labels[rank::2]
            )
            for rank, buffers in enumerate(ranks)
        ]
        adam.zero_grad()
        (sum(losses, torch.zeros(())) / 2).backward()
        for group in adam.param_groups:
            group["lr"] = learning_rate(step)
        adam.step()
    return {name: weight.detach() for name, weight in weights.items()}, ranks


def test_batch_norms_statistics_are_those_of_each_rank_until_averaged(spread: Found) -> None:
    weights, ranks = batch_norm_reference()
    found = spread["batch norm"]
    for rank, buffers in enumerate(ranks):
        torch.testing.assert_close(found["own"][rank], {**weights, **buffers}, atol=1e-5, rtol=0)
        mean = {name: (ranks[0][name] + ranks[1][name]) / 2 for name in ("1.running_mean", "1.running_var")}
        torch.testing.assert_close(found["averaged"][rank], {**weights, **buffers, **mean}, atol=1e-5, rtol=0)
        for name, value in with_batch_norm(1).state_dict().items():
            assert torch.equal(found["loaded"][rank][name], value), name
            moved = found["stepped"][rank][name] - value
            assert moved.any() and (name.startswith("1.") or moved.abs().max() < 3e-3), name
    assert (ranks[0]["1.running_mean"] - ranks[1]["1.running_mean"]).abs().max() > 1e-4


def test_the_state_of_another_network_is_refused(spread: Found) -> None:
    assert spread["batch norm"]["state of another network"] == "refused"


def test_no_network_stays_in_memory_when_the_next_is_trained(spread: Found) -> None:
    assert spread["left"] == 0
