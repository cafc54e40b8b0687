"""The same gradients and weights however a GAN's step is spread: DDP, accumulation, ZeRO-1, ZeRO-2, beside a plain
loop over whole batches in one process, which shares only the networks and the random numbers with them."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from cxrdist.counter_rng import bits, to_normal, to_uniform
from cxrdist.distributed.dist import Dist
from cxrdist.gan.diffaugment import DiffAugmentConfig, diffaugment
from cxrdist.gan.training.step import ENGINES
from cxrdist.seeds import derive
from tests.helpers.launching import launch
from tests.helpers.parity import largest_difference, largest_share
from tests.helpers.parity_job import (
    ARCHITECTURES,
    AUGMENT,
    OPTIONS,
    RESUMED,
    SAVED,
    SEED,
    STEPS,
    Trainer,
    global_batch,
    networks,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

RUNS: dict[str, dict[str, Any]] = {
    "conditional": {"architecture": "conditional", "parts": 1},
    "conditional in 2 parts": {"architecture": "conditional", "parts": 2},
    "minibatch std": {"architecture": "minibatch std", "parts": 1},
    "minibatch std in 2 parts": {"architecture": "minibatch std", "parts": 2},
    "dcgan in 2 parts": {"architecture": "dcgan", "parts": 2},
}
RESUMED_RUN = "conditional, resumed"
MODES = {"DDP": "cpu2.yaml", "ZeRO-1": "zero1_cpu.yaml", "ZeRO-2": "zero2_cpu.yaml"}
# Of a layer's largest gradient, in float32, whose sums come in another order: 2e-6 measured in the first step, from
# the same weights, and 8e-5 or less in the middle one of all. An activation that rounding moves across a rectifier's
# kink changes all gradients of its step: 9e-2 measured. A step on one rank's images alone, or without R1, is off by
# 0.9 or more.
GRADIENT_TOLERANCE, KINK_TOLERANCE = 1e-4, 1e-1
# After 20 steps of up to 2e-4 each; 2e-7 measured, 1.3e-4 with kinks, and 2.7e-3 for the wrong ones.
WEIGHT_TOLERANCE = 2e-4
Found = dict[str, Any]


def reference(
    architecture: str, *, images: slice = slice(None), r1: bool = True, steps: int = STEPS
) -> Found:
    """The plain loop: gradients and weights of each step, states of both Adams after SAVED of them."""
    generator, discriminator = networks(architecture)
    options, conditional = ARCHITECTURES[architecture], architecture != "dcgan"
    config = DiffAugmentConfig(**AUGMENT if conditional else {})
    adams = {
        name: torch.optim.Adam(network.parameters(), 2e-4, (OPTIONS["beta1"], OPTIONS["beta2"]))
        for name, network in (("generator", generator), ("discriminator", discriminator))
    }
    found: Found = {"gradients": {}, "weights": {}, "stats": {}}
    for step in range(steps):
        pixels, labels, positions = global_batch(step)
        labels, positions = labels[images], positions[images]

        drawn = bits(derive(SEED, "gan step", "all"), torch.tensor(list(positions)), 16 + 3 * 8)
        amounts = dict(zip(("real", "fake", "g"), to_uniform(drawn[:, 16:]).split(8, dim=1), strict=True))

        def seen(x: Tensor, purpose: str, amounts: dict[str, Tensor] = amounts) -> Tensor:
            return diffaugment(x, config, amounts[purpose])

        real = seen(pixels[images].float() / 127.5 - 1, "real")
        z = to_normal(drawn[:, :16]) if conditional else to_uniform(drawn[:, :16])
        with torch.no_grad():
            fake = generator(z, labels)
        of_real, of_fake = discriminator(real, labels), discriminator(seen(fake, "fake"), labels)
        loss_d = loss = -logsigmoid(of_real).mean() - logsigmoid(-of_fake).mean()
        if conditional and r1 and step % 2 == 0:
            x = real.requires_grad_()
            (slope,) = torch.autograd.grad(discriminator(x, labels).sum(), x, create_graph=True)
            loss = loss + 2 * options["r1_weight"] / 2 * (slope**2).sum() / len(x)
        adams["discriminator"].zero_grad()
        loss.backward()
        gradients = {
            "discriminator": [p.grad.clone() for p in discriminator.parameters() if p.grad is not None]
        }
        adams["discriminator"].step()

        loss_g = -logsigmoid(discriminator(seen(generator(z, labels), "g"), labels)).mean()
        adams["generator"].zero_grad()
        loss_g.backward()
        gradients["generator"] = [p.grad.clone() for p in generator.parameters() if p.grad is not None]
        adams["generator"].step()
        right = [(of_real > 0).float().mean(), (of_fake <= 0).float().mean()]
        stats = [loss_d, loss_g, of_real.sigmoid().mean(), of_fake.sigmoid().mean(), sum(right) / 2]
        stats += [
            torch.cat([g.flatten() for g in gradients[name]]).norm()
            for name in ("discriminator", "generator")
        ]
        found["stats"][step] = torch.stack(stats).detach()
        found["gradients"][step] = gradients
        found["weights"][step] = weights = {
            "generator": [p.detach().clone() for p in generator.parameters()],
            "discriminator": [p.detach().clone() for p in discriminator.parameters()],
        }
        if step == SAVED - 1:
            optimizers = copy.deepcopy({name: adam.state_dict() for name, adam in adams.items()})
            found["saved"] = {"weights": weights, "optimizers": optimizers}
    return found


def gradient_differences(ours: Found, theirs: Found) -> list[float]:
    """Of each step of ours, the largest difference of a gradient, as a fraction of its layer's largest."""
    return [
        max(
            largest_share(gradients, theirs["gradients"][step][name])
            for name, gradients in of_networks.items()
        )
        for step, of_networks in ours["gradients"].items()
    ]


def weight_difference(ours: Found, theirs: Found, step: int) -> float:
    """The largest difference of a weight after a step."""
    return max(
        largest_difference(weights, theirs["weights"][step][name])
        for name, weights in ours["weights"][step].items()
    )


@pytest.fixture(scope="module")
def references(one_thread: None) -> dict[str, Found]:
    return {architecture: reference(architecture) for architecture in ARCHITECTURES}


@pytest.fixture(scope="module", params=MODES)
def spread(request: pytest.FixtureRequest, references: dict[str, Found], tmp_path_factory: Any) -> Found:
    """What two processes found, all runs in one job: networks are trained one after the other as in a GAN run."""
    folder = tmp_path_factory.mktemp("parity")
    torch.save(references["conditional"]["saved"], folder / "saved")
    resumed = {**RUNS["conditional in 2 parts"], "resume": str(folder / "saved")}
    given = {"out": str(folder / "found"), "runs": {**RUNS, RESUMED_RUN: resumed}, "alone": [1, 3]}
    done = launch(
        "../tests/helpers/parity_job.py",
        json.dumps(given),
        cwd=folder,
        processes=2,
        config=MODES[request.param],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return torch.load(folder / "found", weights_only=True)


@pytest.mark.parametrize("name", RUNS)
def test_gradients_and_weights_are_those_of_a_plain_loop(
    name: str, spread: Found, references: dict[str, Found]
) -> None:
    check_parity(spread[name], references[RUNS[name]["architecture"]])


def check_parity(ours: Found, theirs: Found) -> None:
    assert list(ours["weights"]) == list(range(STEPS))
    differences = gradient_differences(ours, theirs)
    assert differences[0] < GRADIENT_TOLERANCE and sorted(differences)[STEPS // 2] < GRADIENT_TOLERANCE
    assert max(differences) < KINK_TOLERANCE
    assert weight_difference(ours, theirs, STEPS - 1) < WEIGHT_TOLERANCE
    for step in range(STEPS):
        torch.testing.assert_close(ours["stats"][step], theirs["stats"][step], rtol=1e-2, atol=1e-5)


def test_four_processes_find_it_too(references: dict[str, Found], tmp_path: Path) -> None:
    """Two images on each; a group of minibatch std lies on two of them, or on all four."""
    runs = {name: RUNS[name] for name in ("minibatch std", "minibatch std in 2 parts")}
    job = json.dumps({"out": str(tmp_path / "found"), "runs": runs})
    done = launch("../tests/helpers/parity_job.py", job, cwd=tmp_path, processes=4, config=MODES["DDP"])
    assert done.returncode == 0, done.stdout + done.stderr
    found = torch.load(tmp_path / "found", weights_only=True)
    assert found["described"].startswith("4 processes on CPU")
    for name in runs:
        check_parity(found[name], references["minibatch std"])


def test_the_tolerances_tell_a_wrong_step(references: dict[str, Found]) -> None:
    whole = references["conditional"]
    for wrong in (reference("conditional", images=slice(0, None, 2)), reference("conditional", r1=False)):
        assert max(gradient_differences(wrong, whole)) > 8 * KINK_TOLERANCE
        assert weight_difference(wrong, whole, STEPS - 1) > 10 * WEIGHT_TOLERANCE


def test_the_optimizers_state_is_adams_own(spread: Found, references: dict[str, Found]) -> None:
    """So a checkpoint needs nothing of DeepSpeed's, and moves between DDP, ZeRO and any number of ranks."""
    saved = references["conditional"]["saved"]["optimizers"]
    for run in ("conditional", "conditional in 2 parts"):
        for name, theirs in saved.items():
            assert spread[run]["fresh"][name] == {"state": {}, "param_groups": theirs["param_groups"]}
            ours = spread[run]["optimizers"][name]
            assert ours["param_groups"] == theirs["param_groups"]
            assert ours["state"].keys() == theirs["state"].keys()
            for number, of_weight in theirs["state"].items():
                assert ours["state"][number].keys() == of_weight.keys() == {"step", "exp_avg", "exp_avg_sq"}
                assert float(ours["state"][number]["step"]) == SAVED
                for key in ("exp_avg", "exp_avg_sq"):
                    mean, scale = of_weight[key], float(of_weight[key].abs().max())
                    torch.testing.assert_close(
                        ours["state"][number][key], mean, rtol=0, atol=KINK_TOLERANCE * scale
                    )


def test_what_one_process_saved_two_go_on_from(spread: Found, references: dict[str, Found]) -> None:
    given, ours = references["conditional"]["saved"]["optimizers"], spread[RESUMED_RUN]
    for name, state in given.items():
        for number, of_weight in state["state"].items():
            for key, value in of_weight.items():
                assert torch.equal(ours["loaded"][name]["state"][number][key], value), (name, number, key)
    assert list(ours["weights"]) == list(range(SAVED, RESUMED))
    assert gradient_differences(ours, references["conditional"])[0] < GRADIENT_TOLERANCE
    assert weight_difference(ours, references["conditional"], RESUMED - 1) < WEIGHT_TOLERANCE


def test_no_network_stays_in_memory_when_the_next_is_trained(spread: Found) -> None:
    assert [spread[name]["left"] for name in (*RUNS, RESUMED_RUN)] == [0] * (len(RUNS) + 1)


def test_a_job_says_how_it_is_spread(spread: Found, request: pytest.FixtureRequest) -> None:
    mode = request.node.callspec.params["spread"]
    shared = "" if mode == "DDP" else f", {mode}"
    assert spread["described"] == f"2 processes on CPU, 1 thread each, fp32{shared}"


def test_ranks_that_train_alone_wait_for_nobody(spread: Found) -> None:
    """Rank 1 takes three steps to rank 0's one; each of them is the one process of a job of its own."""
    met = spread["alone"]["met"]
    assert [rank for rank, _, _ in met] == [0, 1]
    for _, answers, _ in met:
        assert answers == [5, [3], "a", ["b"], [1, 1], [1, 1], [1]]
    trainer = Trainer(Dist("fp32", engines=ENGINES), "conditional", 1)
    torch.set_num_threads(1)  # Dist sets its own
    after = {}
    for step in range(3):
        trainer.step(step)
        after[step + 1] = trainer.weights()
    for (_, _, weights), steps in zip(met, (1, 3), strict=True):
        for name, values in after[steps].items():
            assert all(torch.equal(a, b) for a, b in zip(weights[name], values, strict=True))
