"""Rows of questions and worked solutions, from their sources to padded batches of tokens."""

from trm_jax.data.answers import find_answer, reference_answer, without_next_question
from trm_jax.data.datasets import (
    HUB_SETS,
    DataError,
    Row,
    evaluation_rows,
    load_rows,
    own_test_set,
    public_name,
    question_rows,
)
from trm_jax.data.examples import (
    SYSTEM_PROMPT,
    Example,
    boxed_solution,
    encode_chat,
    encode_examples,
    encode_prompts,
    encode_rows,
)
from trm_jax.data.hub import HubError, HubModel, require_hub
from trm_jax.data.judges import majority, same_answer
from trm_jax.data.loader import NO_LABEL, Batch, Bucket, Loader, StreamLoader, pad_batch
from trm_jax.data.tokenizer import check_tokenizer, end_token, read_tokenizer, render_chats
from trm_jax.data.training_set import TrainingSet, make_training_set
