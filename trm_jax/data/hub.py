"""The Hugging Face hub, or that it is out of reach, said at once."""

from trm_jax.errors import UserError

TIMEOUT = 5  # seconds


class HubError(UserError):
    """Something that the hub does not have, or a hub that cannot be reached; the message says what serves instead."""


def require_hub(wanted: str) -> None:
    """Raises HubError if the hub does not answer; its own libraries would try again for half a minute.

    With HF_HUB_OFFLINE=1 nothing is asked: what was downloaded before is used.
    """
    import huggingface_hub
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return
    try:
        huggingface_hub.utils.get_session().head(constants.ENDPOINT, timeout=TIMEOUT)
    except Exception as error:  # of whichever HTTP library the hub's uses
        raise HubError(
            f"{wanted!r} is not here, and {constants.ENDPOINT} cannot be reached ({error}): give a local folder or file, or "
            "set HF_HUB_OFFLINE=1 to use what was downloaded before"
        ) from None
