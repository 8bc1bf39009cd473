"""What is asked of a hub, and what is said where it gives nothing: one line, soon, whatever its client logs, tries again or raises."""

from __future__ import annotations

import contextlib
import logging
import textwrap
from collections.abc import Iterator, Sequence

from tracekit.errors import TracekitError, UnavailableError


def first_on_hub(repository: str, names: Sequence[str], instead: str) -> str:
    """The first of these files that a repository has. Raises UnavailableError where it has none, or cannot be asked.

    Each name is asked for once, for as long as HF_HUB_ETAG_TIMEOUT says (10 seconds): a download tries again for minutes.
    `instead` is what one can do without the hub.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import ENDPOINT
    from huggingface_hub.errors import EntryNotFoundError

    with fetching(repository, instead):
        for name in names:
            with contextlib.suppress(EntryNotFoundError):
                get_hf_file_metadata(hf_hub_url(repository, name))
                return name
    raise UnavailableError(
        f"could not fetch {repository} from {ENDPOINT}: it has no {' or '.join(names)}",
        hint=f"name another repository, or {instead}",
    )


@contextlib.contextmanager
def fetching(repository: str, instead: str) -> Iterator[None]:
    """Within it the hub's client is silent, and whatever it raises is an UnavailableError: what was tried, from where, and what to do next."""
    from huggingface_hub.constants import ENDPOINT

    log = logging.getLogger("huggingface_hub")
    before = log.level
    log.setLevel(logging.CRITICAL)
    try:
        yield
    except TracekitError:
        raise
    except Exception as error:  # of its HTTP library, too, which is another one from version to version
        reason, hint = _reason(error, f"{ENDPOINT}/{repository}")
        raise UnavailableError(f"could not fetch {repository} from {ENDPOINT}: {reason}", hint=f"{hint}, or {instead}") from error
    finally:
        log.setLevel(before)


def _reason(error: Exception, address: str) -> tuple[str, str]:
    """What is wrong, and what to do about it."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

    if isinstance(error, GatedRepoError):
        return "access to it must be granted", f"ask for it at {address} and run `hf auth login`"
    if isinstance(error, RepositoryNotFoundError):  # a hub says the same of what is not there and of what is not for everybody
        return "there is no such repository, or it is private", "see its name; for a private one run `hf auth login`"
    if isinstance(error, HfHubHTTPError):
        status = error.response.status_code
        return f"the hub answers {status}", "run `hf auth login`" if status in (401, 403) else "try again later"
    return textwrap.shorten(str(error), 200) or type(error).__name__, "see the network of this machine"
