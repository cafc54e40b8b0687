"""Open the sets and the store, and serve the page until a signal ends it."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import secrets
import socket
from pathlib import Path

import uvicorn

from cxrdist.console import say
from cxrdist.data.shards.open import open_finished_real, open_synthetic
from cxrdist.data.shards.schema import MANIFEST
from cxrdist.data.shards.shard_set import ShardSet
from cxrdist.errors import OptionError, UserError
from cxrdist.synth.review.readers import readers
from cxrdist.synth.review.serving.options import ServeOptions
from cxrdist.synth.review.serving.pages import CLASS_KEYS, application
from cxrdist.synth.review.serving.pictures import Pictures
from cxrdist.synth.review.serving.pool import Pool
from cxrdist.synth.review.serving.reading import Reading, check_pool
from cxrdist.synth.review.store import Store
from cxrdist.synth.review.terms import agreed

log = logging.getLogger(__name__)

MIN_TOKEN_CHARACTERS = 16
ENDS_WITHIN_S = 2


def serve(options: ServeOptions) -> None:
    """Runs until Ctrl-C or SIGTERM, which raise here what they raise in any command. Raises UserError for sets that
    do not belong together, a store of another reading, and a port that is in use."""
    token = None if options.is_local else token_of(options)
    real = open_finished_real(options.shards)
    synthetic = open_synthetic(options.set, real, allow_other_lineage=options.allow_other_lineage)
    path = Path(options.store)
    if (path.absolute().parent / MANIFEST).exists():
        raise OptionError("store", f"{path} would lie in a shard set, which holds no other files")
    with contextlib.ExitStack() as closing:
        closing.callback(synthetic.close)
        closing.callback(real.close)
        listener = closing.enter_context(contextlib.closing(listen(options)))
        store = Store(path, create=True)
        closing.callback(store.close)
        digests = {
            f"{kind}_digest": [of.digest, *of.manifest.earlier_digests]
            for kind, of in (("synthetic", synthetic), ("real", real))
        }
        asked = {name: getattr(options, name) for name in ("seed", "share_real", "overlap", "split")}
        terms = agreed(store, digests, asked)
        pool = Pool(synthetic, real, terms.split)
        lacking = check_pool(pool, terms, options.tasks)
        warn(options, synthetic, real, lacking)
        pictures = Pictures(pool, store.secret)
        closing.callback(pictures.close)
        reading = Reading(store, pool, pictures, terms, options.limit)
        app = application(reading, tasks=options.tasks, names=names_of(options), token=token)
        synthetic_images = len(pool.numbers(is_real=False))
        real_images = f", {len(pool) - synthetic_images:,} real ones ({terms.split} split of {real})"
        say(f"{synthetic}: {synthetic_images:,} synthetic images{real_images * ('blinded' in options.tasks)}")
        if terms.synthetic_digest != synthetic.digest:
            say("it was changed since this reading began: what was removed is not shown, and decisions stay")
        if not readers(store):
            say(f"no readers yet: add one with `cxrdist review readers add NAME --store {path}`")
        if token is not None:
            log.warning("the connection is not encrypted: use a tunnel, or put a proxy with TLS before it")
            where = f"in {options.token_file}" if options.token_file else token
            say(f"readers need name, pass phrase, and the token {where}")
        say(f"open {address_of(options, listener)} (Ctrl-C ends)")
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            http="h11",
            loop="asyncio",
            proxy_headers=False,
            server_header=False,
            timeout_graceful_shutdown=ENDS_WITHIN_S,
        )
        uvicorn.Server(config).run(sockets=[listener])


def token_of(options: ServeOptions) -> str:
    """What signing in needs beyond this machine."""
    if options.token_file is None:
        return secrets.token_urlsafe(24)
    try:
        token = Path(options.token_file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        raise OptionError("token_file", f"{options.token_file} cannot be read ({error})") from None
    if len(token) < MIN_TOKEN_CHARACTERS:
        raise OptionError(
            "token_file",
            f"{options.token_file} holds {len(token)} characters, and a token needs {MIN_TOKEN_CHARACTERS}: make one "
            f"with `openssl rand -hex 24 > {options.token_file}`",
        )
    return token


def listen(options: ServeOptions) -> socket.socket:
    """A socket that listens at the host and port."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            options.host, options.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.create_server(address[:2], family=family)
        # Accepted connections inherit it, and asyncio does not set it on them: without it the body of an answer waits
        # for the acknowledgement of its headers, 40 ms.
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener
    except socket.gaierror as error:
        raise OptionError(
            "host", f"{options.host} is no address of this machine ({error.strerror})"
        ) from None
    except OSError as error:
        raise UserError(
            f"cannot listen at {options.host}, port {options.port} ({error.strerror}): another program may use the "
            "port; choose one with --port, or --port 0 for any that is free"
        ) from None


def names_of(options: ServeOptions) -> set[str]:
    """Host names that browsers may ask for."""
    names = {"localhost", *options.names}
    return names if options.is_local else names | {options.host, socket.gethostname()}


def address_of(options: ServeOptions, listener: socket.socket) -> str:
    host = options.host
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        host = (
            socket.gethostname() if address.is_unspecified else f"[{host}]" if address.version == 6 else host
        )
    return f"http://{host}:{listener.getsockname()[1]}/"


def warn(options: ServeOptions, synthetic: ShardSet, real: ShardSet, lacking: list[str]) -> None:
    """Of what makes a blinded reading less blind, or smaller."""
    if "blinded" not in options.tasks:
        return
    if len(synthetic.classes) > len(CLASS_KEYS):
        raise UserError(
            f"{synthetic} has {len(synthetic.classes)} classes, and the blinded task has keys for {len(CLASS_KEYS)}: "
            "add --tasks curate"
        )
    if lacking:
        log.warning(
            "the blinded task leaves out %s: their class alone would tell real from synthetic, since one of both "
            "sets has no such images",
            ", ".join(lacking),
        )
    encodings = {synthetic.manifest.encoding, real.manifest.encoding}
    if len(encodings) > 1 and not encodings <= {"png", "npy"}:
        log.warning(
            "%s holds %s images and %s %s: readers may see which ones were compressed",
            synthetic,
            synthetic.manifest.encoding,
            real,
            real.manifest.encoding,
        )
