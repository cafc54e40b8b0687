"""Write generated images straight into shards: each rank writes its own shards, rank 0 the manifest.

mix rule + real counts -> images per class                     plan.py
  -> generators, classifiers of real images                    generators/, classifiers.py
    -> gates fitted on train, calibrated on val; first images  gates/, probe.py
      -> rounds of shards, until no image is missing           rounds.py, candidates.py
        -> tables, then the manifest with gates and lineage    synthetic_set.py
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from cxrdist.config.parser import to_dict
from cxrdist.console import duration, say
from cxrdist.data.ingest.default_set import open_real
from cxrdist.data.shards.lineage import descends_from
from cxrdist.data.shards.manifest import Manifest, Provenance, check_classes
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.data.shards.writing.rewrite import changing
from cxrdist.data.shards.writing.write_job import claimed, finished_set
from cxrdist.data.storage.store import LocalStore, Store, store_of
from cxrdist.distributed import zero
from cxrdist.distributed.dist import Dist
from cxrdist.errors import UserError
from cxrdist.files import read_json
from cxrdist.models import TrainedClassifier
from cxrdist.run.folder import SUMMARY, locked_run
from cxrdist.run.hosts import check_data, check_options, check_seen
from cxrdist.synth import classifiers
from cxrdist.synth.charts import write_scores
from cxrdist.synth.config import SynthConfig
from cxrdist.synth.gates.config import GatesConfig, read_gates
from cxrdist.synth.gates.fit import check_calibration, fit
from cxrdist.synth.generators.own import own_sources
from cxrdist.synth.generators.sources import ImageSource, gan_sources
from cxrdist.synth.pictures import write_pictures
from cxrdist.synth.plan import ClassProgress, images_to_make
from cxrdist.synth.probe import probe
from cxrdist.synth.report import report
from cxrdist.synth.rounds import ClassShards, Job, write_rounds
from cxrdist.synth.synthetic_set import check_rejected, conclude, continued, provenance_of, write_rejected

Sources = Mapping[str, Sequence[ImageSource]]


def synthesize(config: SynthConfig) -> None:
    """Write the synthetic set of a mix, over all processes."""
    gates = read_gates(config.gates)
    zero.refuse()  # before classifiers are trained, as all that is wrong with the options
    classifiers.prepare(config, gates, lambda real: check_first(config, real))
    # bf16 would change grey values.
    with Dist("fp32", threads=config.threads, collective_timeout=config.collective_timeout) as dist:
        check_options(dist, "synth", to_dict(config) | {"gates": str(gates)})
        dist.on_main(lambda: open_real(config.shards).close())
        real = dist.agree(lambda: ShardSet(config.shards))
        check_classes(real.classes)
        wanted = dist.agree(lambda: images_to_make(config, real))
        sources = dist.agree(lambda: find_sources(config, wanted, real))
        judges = dist.agree(lambda: classifiers.load(config, gates, real))
        check_data(dist, digests_of(real, sources, judges))
        store = store_of(config.out_place)
        for folder in (config.run_folder, *([store.folder] if isinstance(store, LocalStore) else ())):
            check_seen(dist, folder, "each process of a synthesis writes shards of its own")
        # A mix by default is the same job as that mix by name.
        settled = to_dict(config) | {"mix": None if config.count is not None else config.mix_name}
        with locked_run(config.run_folder, "synth", settled, dist):
            write_set(config, gates, real, wanted, sources, judges, dist)


def digests_of(
    real: ShardSet, sources: Sources, judges: Sequence[TrainedClassifier]
) -> dict[str, str | None]:
    """Of all that the images and the gates come from, by what it is."""
    generators = {
        f"the generator of {name}": ", ".join(one.digest for one in of) for name, of in sources.items()
    }
    classifiers = {
        f"classifier {number} of the gates": judge.weights_sha256 for number, judge in enumerate(judges, 1)
    }
    return {"the real set": real.digest, **generators, **classifiers}


def check_first(config: SynthConfig, real: ShardSet) -> None:
    """What a training of classifiers must not come before: raises UserError for options that are wrong."""
    check_calibration(real, wanted := images_to_make(config, real))
    find_sources(config, wanted, real)


def find_sources(config: SynthConfig, wanted: Mapping[str, int], real: ShardSet) -> Sources:
    """What draws the images of each class."""
    if config.generator is not None:
        return own_sources(config.generator, wanted, real)
    return gan_sources(config.gan_runs, wanted, real)


def made_before(store: Store, provenance: Provenance, images: int, real: ShardSet) -> Manifest | None:
    """The finished set at this place. Raises UserError if it is another one than is asked for."""
    if not store.exists(MANIFEST):
        return None
    manifest = finished_set(store, provenance, images)
    if not descends_from(manifest.lineage.json_value(), real):
        other = str(manifest.lineage.real_digest)[:12]
        raise UserError(
            f"{store} already holds a set that was made for another real set ({other}) than {real} "
            f"({real.digest[:12]}): name another --out, or remove the folder first"
        )
    return manifest


def is_reported(config: SynthConfig, manifest: Manifest) -> bool:
    """False if the job that wrote the manifest was killed before its summary, or there is that of an earlier state of
    the set."""
    path = config.run_folder / SUMMARY
    return path.exists() and read_json(path)["shards"]["synthetic"] == manifest.digest


def write_set(
    config: SynthConfig,
    gates: GatesConfig,
    real: ShardSet,
    wanted: Mapping[str, int],
    sources: Sources,
    judges: Sequence[TrainedClassifier],
    dist: Dist,
) -> None:
    """Write the set, or fill it up if a review removed images, and the run's summary."""
    began_s = time.monotonic()
    store = store_of(config.out_place)
    provenance = provenance_of(config, gates, wanted, sources, judges)
    images = sum(wanted.values())
    finished = dist.on_main(lambda: made_before(store, provenance, images, real))
    lacking = 0 if finished is None else images - finished.samples
    if finished is not None and not lacking:
        if dist.is_main and not is_reported(config, finished):
            report(config, finished, real, {}, time.monotonic() - began_s, dist)
        return
    if config.keep_rejected:
        dist.on_main(lambda: check_rejected(config, provenance))
    for source in {id(one): one for of in sources.values() for one in of}.values():
        source.to(dist.device)
    judge = fit(gates, real, list(wanted), judges, dist)
    probed = probe(config, sources, judge, dist)
    pictures = write_pictures(config.run_folder, probed) if dist.is_main else {}
    job = Job(config, store, real, sources, judge, dist)
    what = config.mix_name if config.count is None else f"--count {config.count}"
    with dist.hold_on_main(claimed(store, provenance) if finished is None else changing(store)):
        if finished is None:
            say(f"synthesis of {images:,} images for {what}, gates: {gates}; {dist.describe()}")
            classes = {name: ClassShards(images, ClassProgress(0, {})) for name, images in wanted.items()}
        else:
            say(f"{store} lacks {lacking:,} images that were removed from it: filling it up")
            classes = dist.agree(lambda: continued(ShardSet(store), wanted, judge))
        write_rounds(job, classes)
        # Before the manifest: a set that is finished is not made again for them.
        dist.on_main(lambda: write_rejected(config, real, provenance, classes))
        manifest: Manifest = dist.on_main(
            lambda: conclude(store, real, judge, provenance, classes, probed.coverage, finished)
        )
    seconds = time.monotonic() - began_s
    if dist.is_main:
        records = {name: of.records for name, of in classes.items() if of.shards}
        if judge.gates and records:
            pictures["scores"] = config.run_folder / "scores.png"
            write_scores(pictures["scores"], judge, records)
        report(config, manifest, real, pictures, seconds, dist)
    say(f"{store}: {manifest.samples:,} images in {duration(seconds)}, digest {manifest.digest[:12]}")
