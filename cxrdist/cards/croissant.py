"""A shard set as Croissant 1.1 with the responsible-AI fields of Croissant RAI 1.0, as a JSON-LD value.

https://docs.mlcommons.org/croissant/docs/croissant-spec-1.1.html
https://docs.mlcommons.org/croissant/docs/croissant-rai-spec.html

    distribution   manifest.json and each shard table as a file with SHA-256
                   each tar as a file with SHA-256, up to MAX_TARS of them; beyond, a glob of the tars of each stratum
                   (the tables have their SHA-256)
                   of each stratum the images in its tars
    recordSet      one per stratum: key, image, class_index, class, split, origin

URLs are relative to the set. A manifest names no URL, creator or date: whoever publishes a set adds ``url``,
``creator``, ``datePublished`` and ``license``, which the specification requires.
"""

from __future__ import annotations

from typing import Any

from cxrdist.cards.statements import MAINTENANCE, Statements, generators_of, knows_training_data
from cxrdist.data.shards.index import ShardTable
from cxrdist.data.shards.manifest import Manifest, StratumEntry
from cxrdist.data.shards.schema import MANIFEST, UNLABELLED, UNLABELLED_CLS
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.files import SHA256, canonical_json, sha256_bytes

CONFORMS_TO = ["http://mlcommons.org/croissant/1.1", "http://mlcommons.org/croissant/RAI/1.0"]
MAX_TARS = 1000
"""A set of more tars names them by globs: a file for each of 100,000 tars would be 40 MB of JSON."""
MEDIA_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "npy": "https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html",
}
CROISSANT_TERMS = (
    "arrayShape",
    "citeAs",
    "column",
    "containedIn",
    "equivalentProperty",
    "extract",
    "field",
    "fileObject",
    "fileProperty",
    "fileSet",
    "format",
    "includes",
    "isArray",
    "isLiveDataset",
    "jsonPath",
    "key",
    "md5",
    "parentField",
    "path",
    "recordSet",
    "references",
    "regex",
    "repeated",
    "replace",
    "samplingRate",
    "separator",
    "source",
    "subField",
    "transform",
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    **{name: f"cr:{name}" for name in CROISSANT_TERMS},
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "description": {"@container": "@language"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "name": {"@container": "@language"},
    "prov": "http://www.w3.org/ns/prov#",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "sc": "https://schema.org/",
}


def croissant(shards: ShardSet, said: Statements) -> dict[str, Any]:
    """The JSON-LD of a set. Raises UserError if a shard table was changed."""
    manifest = shards.manifest
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": said.title,
        "description": " ".join([said.summary, *said.not_for]),
        "identifier": f"sha256:{manifest.digest}",
        "version": "1.0.0",
        "keywords": said.keywords,
        "license": {"@type": "sc:CreativeWork", "name": "Not stated", "description": said.licence},
        "citeAs": f"{said.bibtex or said.citation}\n% digest of the set: {manifest.digest}",
        "distribution": _distribution(shards),
        "recordSet": [] if manifest.is_external else [_records(manifest, entry) for entry in manifest.strata],
        **_responsible_ai(said),
        **_provenance(manifest),
    }


def _responsible_ai(said: Statements) -> dict[str, Any]:
    return {
        "rai:dataCollection": " ".join(said.collection),
        "rai:dataCollectionType": said.collection_type,
        "rai:dataCollectionRawData": said.source,
        **({"rai:dataCollectionMissingData": " ".join(said.missing)} if said.missing else {}),
        "rai:dataPreprocessingProtocol": said.processing,
        "rai:dataAnnotationProtocol": said.labels,
        "rai:dataUseCases": said.uses,
        "rai:dataLimitations": [*said.not_for, *said.limitations],
        "rai:dataBiases": said.biases,
        "rai:personalSensitiveInformation": said.privacy,
        "rai:dataReleaseMaintenancePlan": MAINTENANCE,
    }


def _provenance(manifest: Manifest) -> dict[str, Any]:
    """W3C PROV, as Croissant 1.1 recommends it: sets and generators by their digests."""
    lineage = manifest.lineage
    learned_from = lineage.real_digest if knows_training_data(manifest) else None
    sources = [d for d in (learned_from, *(lineage.ancestors or [])) if d and SHA256.fullmatch(d)]
    generators = sorted(generators_of(manifest))
    found: dict[str, Any] = {}
    if sources:
        found["prov:wasDerivedFrom"] = [_by_digest(digest) for digest in sources]
    if generators:
        found["prov:wasGeneratedBy"] = {
            "@type": "prov:Activity",
            "prov:label": "Synthesis by generative adversarial networks",
            "prov:used": [_by_digest(digest) for digest in generators],
        }
    return found


def _by_digest(digest: str) -> dict[str, str]:
    return {"@id": f"urn:sha256:{digest}"}


def _distribution(shards: ShardSet) -> list[dict[str, Any]]:
    manifest = shards.manifest
    found = [_file(MANIFEST, "application/json", sha256_bytes(canonical_json(manifest.json_value())))]
    found += [_file(entry.table, "application/json", entry.table_sha256) for entry in manifest.strata]
    # The names that others gave to external tars may identify patients.
    if manifest.is_external:
        return found
    names_each = sum(entry.shards for entry in manifest.strata) <= MAX_TARS
    for entry in manifest.strata:
        table = shards.stratum(entry.split, entry.class_name, entry.origin).shards if names_each else None
        found += _files_of(entry, manifest.encoding, table)
    return found


def _files_of(entry: StratumEntry, encoding: str, table: ShardTable | None) -> list[dict[str, Any]]:
    """The tars of a stratum, and the images in them."""
    stem = entry.stratum.stem
    if table is not None:
        tars = [_file(row.name, "application/x-tar", row.sha256, row.bytes) for row in table]
    else:
        tars = [
            {
                "@type": "cr:FileSet",
                "@id": f"{stem}/tars",
                "name": f"tars of {stem}",
                "description": f"{entry.shards:,} tars; {entry.table} lists their SHA-256.",
                "encodingFormat": "application/x-tar",
                "includes": _globs(entry),
            }
        ]
    images = {
        "@type": "cr:FileSet",
        "@id": f"{stem}/images",
        "name": f"images of {stem}",
        "description": f"{entry.samples:,} images in {entry.shards:,} tars.",
        "containedIn": [{"@id": tar["@id"]} for tar in tars],
        "encodingFormat": MEDIA_TYPES[encoding],
        "includes": f"*.{encoding}",
    }
    return [*tars, images]


def _globs(entry: StratumEntry) -> list[str]:
    """Patterns of exactly the tars of a stratum: their numbers have at least six digits. ``-*`` would take in those
    of another class, whose name goes on where this one ends."""
    most = len(str(entry.shards - 1))
    return [f"{entry.stratum.stem}-{'[0-9]' * digits}.tar" for digits in range(6, max(6, most) + 1)]


def _file(name: str, media_type: str, sha256: str, size_bytes: int | None = None) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        **({} if size_bytes is None else {"contentSize": f"{size_bytes} B"}),
        "encodingFormat": media_type,
        "sha256": sha256,
    }


def _records(manifest: Manifest, entry: StratumEntry) -> dict[str, Any]:
    """The samples of a stratum. Class, split and origin are those of the stratum, so they are constants."""
    stem = entry.stratum.stem
    is_labelled = entry.class_name != UNLABELLED
    index = manifest.class_index(entry.class_name) if is_labelled else int(UNLABELLED_CLS)
    key = {
        "fileSet": {"@id": f"{stem}/images"},
        "extract": {"fileProperty": "filename"},
        "transform": {"regex": rf"^(.+)\.{manifest.encoding}$"},
    }
    image = {"fileSet": {"@id": f"{stem}/images"}, "extract": {"fileProperty": "content"}}
    fields = [
        _field(stem, "key", "sc:Text", {"source": key}),
        _field(stem, "image", "sc:ImageObject", {"source": image}),
        _field(stem, "class_index", ["sc:Integer", "cr:Label"], {"value": index}),
        _field(stem, "class", ["sc:Text", "cr:Label"], {"value": entry.class_name}),
        _field(stem, "split", "sc:Text", {"value": entry.split}),
        _field(stem, "origin", "sc:Text", {"value": entry.origin}),
    ]
    return {
        "@type": "cr:RecordSet",
        "@id": stem,
        "name": stem,
        "description": f"{entry.samples:,} {entry.origin} images, {entry.class_name}, split {entry.split}.",
        "key": {"@id": f"{stem}/key"},
        "field": fields,
    }


def _field(stem: str, name: str, data_type: str | list[str], content: dict[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": f"{stem}/{name}", "name": name, "dataType": data_type, **content}
