"""Remove what reviewers decided to remove from a synthetic set; its tars stay as they are.

decisions.csv | review.sqlite -> decisions, checked against the keys of the set -> keys to remove
  -> files of removed samples, manifest
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote

from cxrdist.data.shards.manifest import Manifest, Stratum
from cxrdist.data.shards.removed import Reason
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing.rewrite import changing, remove_samples
from cxrdist.data.storage.store import store_of
from cxrdist.errors import UserError
from cxrdist.synth.config import ENSEMBLE
from cxrdist.synth.review.decision import REVIEW, Given, RemoveIf, Unsure, checked, label_of, removals

NO_REASON = "no reason given"


class WrongDecisions(UserError):
    """Decisions that cannot be applied. ``problems``: all of them, each with its place."""

    def __init__(self, source: object, problems: Sequence[str]) -> None:
        super().__init__(
            f"{source}: {counted(len(problems), 'problem')} in its decisions, so nothing was changed: mend what is "
            "listed"
        )
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Applied:
    """What a review did to a set."""

    before: Manifest
    after: Manifest
    decisions: int
    reviewers: int
    removed: Mapping[Stratum, Mapping[str, Reason]]
    """Stratum -> key -> reason, of the images that were removed now."""
    gone: int
    """Images that were to be removed, and had been before."""

    @property
    def images(self) -> int:
        """Images that were removed now."""
        return sum(map(len, self.removed.values()))


def apply(
    place: str,
    source: object,
    read: Callable[[Sequence[str]], list[Given]],
    *,
    remove_if: RemoveIf = "any",
    unsure: Unsure = "keep",
) -> Applied:
    """Remove images of a synthetic set; see ``removals`` for which.

    ``read(digests)``: the decisions, as ``read_csv`` and ``read_sqlite`` give them; ``digests`` are that of the set
    and those that it had before. ``source`` is what messages name. Raises UserError, with nothing changed: for a set
    of real images, for decisions that are wrong (WrongDecisions), and if a class would lose all its images.
    """
    store = store_of(place)
    with changing(store) as manifest:
        if manifest.lineage.kind != "synthetic":
            raise UserError(f"{place}: a set of real images; a review removes images from a synthetic one")
        shards = ShardSet(store)
        shards.check_keys()
        stratum_of, gone = _keys(shards)
        given = read([manifest.digest, *manifest.earlier_digests])
        decisions, problems = checked(given, stratum_of)
        if problems:
            raise WrongDecisions(source, problems)
        reasons = removals(decisions, remove_if=remove_if, unsure=unsure)
        of_stratum: dict[Stratum, dict[str, Reason]] = {entry.stratum: {} for entry in manifest.strata}
        for key in sorted({*reasons} - gone):
            of_stratum[stratum_of[key]][key] = reasons[key]
        return Applied(
            before=manifest,
            after=remove_samples(store, manifest, of_stratum, by=REVIEW),
            decisions=len(decisions),
            reviewers=len({decision.reviewer for decision in decisions}),
            removed=of_stratum,
            gone=len({*reasons} & gone),
        )


def _keys(shards: ShardSet) -> tuple[dict[str, Stratum], set[str]]:
    """Key -> stratum of all images in the tars of a set, and the keys of those that were removed before."""
    stratum_of: dict[str, Stratum] = {}
    gone: set[str] = set()
    for stratum, index in shards.indexes():
        stratum_of |= dict.fromkeys((key.decode() for key in index["key"].tolist()), stratum)
    for stratum in shards.strata:
        reader = shards.stratum(stratum.split, stratum.class_name, stratum.origin)
        gone |= {key for keys in reader.removed.values() for key in keys}
    return stratum_of, gone


def counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def report(applied: Applied, place: str) -> list[str]:
    """What was done, per class and by reason, in lines."""
    lines = [f"{counted(applied.decisions, 'decision')} of {counted(applied.reviewers, 'reviewer')}"]
    if applied.gone:
        lines.append(f"removed before, no change: {counted(applied.gone, 'image')}")
    if not applied.images:
        return [*lines, f"{place}: nothing to remove, left as it is (digest {applied.after.digest[:12]})"]
    left = {entry.stratum: entry.samples for entry in applied.after.strata}
    for stratum, of_stratum in applied.removed.items():
        if not of_stratum:
            continue
        reasons = Counter(label_of(reason.reason) or NO_REASON for reason in of_stratum.values())
        by_reason = "; ".join(f"{reason.replace('; ', ' and ')} {n:,}" for reason, n in reasons.most_common())
        lines.append(
            f"  {stratum.class_name}: {len(of_stratum):,} removed ({by_reason}), {left[stratum]:,} left"
        )
    digests = f"digest {applied.before.digest[:12]} -> {applied.after.digest[:12]}"
    return [
        *lines,
        f"{place}: {applied.images:,} of {applied.before.samples:,} images removed, {digests}; its tars still hold "
        "them, and readers of the set leave them out",
        f"to fill it up again: `{top_up_command(place, applied.after)}`, with the runs that it was made with "
        "(--gan or --generator, and --classifiers if they were named)",
    ]


def top_up_command(place: str, manifest: Manifest) -> str:
    """The synthesis that the set was made with, as far as its manifest tells: it has the digests of generators and
    classifiers, and not the folders of their runs."""
    provenance, place = manifest.provenance, place.rstrip("/")
    words = ["accelerate launch launch/synthesize.py"]
    if provenance.training_data == "unknown":  # a GAN of cxrdist says what it learned from
        words += ["--generator", "package.module:load"]
    else:
        seeds = max(
            (len(of) for of in (provenance.generators or {}).values() if isinstance(of, list)), default=1
        )
        words += ["--gan", ",".join(["runs/gan", *(f"runs/gan-seed{seed}" for seed in range(1, seeds))])]
    words += ["--shards", quote(place.removesuffix("-synthetic")) if place.endswith("-synthetic") else "SET"]
    images = provenance.option("images")
    if mix := provenance.option("mix"):
        words += ["--mix", quote(str(mix))]
    elif isinstance(images, dict):
        words += ["--count", quote(",".join(f"{name}={count}" for name, count in images.items()))]
    for name, default in (("encoding", "png"), ("seed", 0)):
        if (value := provenance.option(name, default)) != default:
            words += [f"--{name}", quote(str(value))]
    gates = provenance.gates.name if provenance.gates is not None else "default"
    if gates != "default":
        words += ["--gates", gates if gates in ("none", "strict") else quote(f"{gates}.yaml")]
    judges = provenance.option("classifiers") or []
    if len(judges) not in (0, ENSEMBLE):  # as many as are trained if none are named
        words += ["--classifiers", ",".join(["RUN"] * len(judges))]
    return " ".join([*words, "--out", quote(place)])
