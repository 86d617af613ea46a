"""Tells at once whether the Hugging Face hub can be reached."""

from trm_jax.errors import UserError

TIMEOUT = 5  # seconds


class HubError(UserError):
    """The hub does not have something or cannot be reached; the message says what can be used instead."""


def require_hub(wanted: str) -> None:
    """Raises HubError if the hub does not answer; its own libraries would try again for half a minute.

    With HF_HUB_OFFLINE=1 the hub is not asked: what was downloaded before is used.

    Example: `require_hub("Qwen/Qwen2.5-0.5B")`.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # its type depends on the HTTP library in use
        raise HubError(
            f"{wanted!r} is not here, and {constants.ENDPOINT} cannot be reached ({error}): give a local folder or file, or "
            "set HF_HUB_OFFLINE=1 to use what was downloaded before"
        ) from None
