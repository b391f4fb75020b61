"""An exported folder on the Hugging Face Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from corsa.errors import HubError, UsageError
from corsa.progress import Progress
from corsa.sources import first_line


def check_repository(name: str) -> None:
    """Refuse a name that no repository can have, and a push without a token, before anything is done.

    Args:
        name: as OWNER/NAME.

    Raises:
        UsageError: if it is no such name.
        HubError: if there is no token, or the Hub is switched off.
    """
    from huggingface_hub import constants, get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise UsageError(
            f"{name!r} is no repository id ({first_line(error)}): give OWNER/NAME"
        ) from error
    if "/" not in name:
        raise UsageError(f"{name!r} does not say whose it is: give OWNER/NAME")
    if constants.HF_HUB_OFFLINE:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is uploaded: unset it to push")
    if get_token() is None:
        raise HubError(
            "there is no Hugging Face token: run 'hf auth login' or set HF_TOKEN to a token that "
            "may write (https://huggingface.co/settings/tokens)"
        )


def upload(folder: Path, name: str, message: str, progress: Progress, *, private: bool) -> str:
    """Upload a folder as one commit, making the repository if there is none.

    Args:
        folder: what to upload.
        name: OWNER/NAME.
        message: of the commit.
        progress: told what goes on.
        private: whether the repository must be private; one that is made is made so.

    Returns:
        Where it can be seen.

    Raises:
        HubError: if the Hub cannot be reached or refuses, or the repository is public and must not
            be; a commit is there whole or not at all.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    # Its bases are OSError and the HTTP library's own error, which a broken transfer raises.
    transport = cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)
    files = [path for path in folder.iterdir() if path.is_file()]
    size = sum(path.stat().st_size for path in files)
    api = HfApi()
    progress.begin(f"uploading {len(files)} files, {size / 1e6:.1f} MB")
    try:
        with _no_bars():
            # Not asked for means the owner's own default, which may be private, too.
            api.create_repo(name, private=private or None, exist_ok=True)
            if private and not api.repo_info(name).private:
                raise HubError(
                    f"{name} is there already and is public: nothing was uploaded; make it private, "
                    "give another name, or leave --private out"
                )
            commit = api.upload_folder(repo_id=name, folder_path=folder, commit_message=message)
    except HfHubHTTPError as error:
        raise HubError(f"the Hub refuses {name} ({_said(error)}): {_remedy(error)}") from error
    except transport as error:
        raise HubError(
            f"the Hub cannot be reached ({first_line(error)}): check the network and push again"
        ) from error
    except RuntimeError as error:  # a file's transfer broke off, which the library wraps
        reason = first_line(error.__cause__) if isinstance(error.__cause__, Exception) else error
        raise HubError(
            f"the Hub did not take a file ({reason}): nothing was committed; push again"
        ) from error
    except ValueError as error:  # a card the Hub does not accept, or a file it does not
        raise HubError(f"the Hub does not accept what is uploaded: {first_line(error)}") from error
    return str(commit.commit_url)


@contextmanager
def _no_bars() -> Iterator[None]:
    """Inside the block the library draws no bars of its own: one progress is enough."""
    from huggingface_hub.utils.tqdm import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    before = are_progress_bars_disabled()
    disable_progress_bars()
    try:
        yield
    finally:
        if not before:
            enable_progress_bars()


def _said(error: Exception) -> str:
    said = getattr(error, "server_message", None)
    return str(said).splitlines()[0] if said else first_line(error)


def _remedy(error: Exception) -> str:
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status == 401:
        return "the token is not valid: run 'hf auth login' again"
    if status in (403, 404):
        return "give a token that may write to it, or another repository"
    return "try again later"
