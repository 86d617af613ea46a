"""What a client did wrong, or cannot get, as a status and OpenAI's error object."""

from typing import Any

from trm_jax.errors import UserError


class ApiError(UserError):
    """An error that is told to the client."""

    status, type, code = 500, "server_error", None

    def __init__(self, message: str, field: str | None = None):
        """`field` is that of the body in which the fault is."""
        super().__init__(message)
        self.field = field

    def to_json(self) -> dict[str, Any]:
        """OpenAI's error object."""
        return {"error": {"message": str(self), "type": self.type, "param": self.field, "code": self.code}}


class BadRequestError(ApiError):
    status, type = 400, "invalid_request_error"


class TooLongError(BadRequestError):
    code = "context_length_exceeded"


class WrongKeyError(BadRequestError):
    status, code = 401, "invalid_api_key"


class WrongHostError(BadRequestError):
    status = 403


class UnknownModelError(BadRequestError):
    status, code = 404, "model_not_found"


class TooLargeBodyError(BadRequestError):
    status = 413


class BusyError(ApiError):
    status, type, code = 429, "rate_limit_error", "rate_limit_exceeded"


class EndingError(ApiError):
    status = 503
