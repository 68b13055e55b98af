"""A model behind an OpenAI-compatible service, such as vLLM or llama.cpp: it completes texts and has no weights here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from advreg.errors import ConfigError, ModelError
from advreg.language.chat_service import ChatService, Message
from advreg.language.models.language_model import LanguageModel


class MissingWeights:
    """Takes the place of network and tokenizer of a service; each use raises.

    Args:
        name: name of the model.

    Example:
        >>> MissingWeights("http://host/v1#any").config
        Traceback (most recent call last):
        advreg.errors.ModelError: http://host/v1#any is a service: it serves attacks in words, not 'config'; load its weights
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("__"):
            raise AttributeError(attribute)
        raise ModelError(f"{self._name} is a service: it serves attacks in words, not {attribute!r}; load its weights")


@dataclass(frozen=True)
class ServiceModel(LanguageModel):
    """A language model behind a service, which gives its completions.

    Attributes:
        service: the service.
    """

    service: ChatService = field(kw_only=True)

    def complete(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int,
        system: str | None = None,
        history: Sequence[Sequence[Message]] | None = None,
        temperature: float = 0.0,
    ) -> list[str]:
        """Return the service's completion of each prompt.

        Args:
            prompts: text of the user's last turn, one conversation each.
            max_new_tokens: length limit of a completion, in tokens.
            system: the system prompt; that of the model if None.
            history: earlier turns of each conversation; none if None.
            temperature: temperature of the draws, which are the service's own.

        Returns:
            The completions.

        Raises:
            ModelError: the service gave no reply to a prompt.
        """
        turns = history or [()] * len(prompts)
        system = self.system if system is None else system
        first: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        conversations = [
            [*first, *earlier, {"role": "user", "content": prompt}]
            for earlier, prompt in zip(turns, prompts, strict=True)
        ]
        service = replace(self.service, max_tokens=max_new_tokens, temperature=temperature)
        replies = service.complete(conversations)
        if None in replies:
            problem = next(iter(service.problems), "no text")
            raise ModelError(
                f"{self.name} completed {len(prompts) - replies.count(None)} of {len(prompts)} prompts: {problem}"
            )
        return [reply.strip() for reply in replies if reply is not None]


def is_endpoint(name: str) -> bool:
    """Return whether a name is the address of a service.

    Example:
        >>> is_endpoint("http://127.0.0.1:8000/v1#any"), is_endpoint("hf:org/name")
        (True, False)
    """
    return name.partition(":")[0] in ("http", "https")


def connect(name: str) -> ServiceModel:
    """Return the model of a service.

    Args:
        name: ``http(s)://HOST/v1#MODEL``, or ``http(s)://HOST/v1?key=VARIABLE#MODEL`` with the environment variable that holds
            the key.

    Raises:
        ConfigError: the address names no model, or the variable is not set.

    Example:
        >>> connect("http://127.0.0.1:8000/v1")
        Traceback (most recent call last):
        advreg.errors.ConfigError: http://127.0.0.1:8000/v1 names no model; give http(s)://HOST/v1#MODEL
    """
    parts = urlsplit(name)
    if not parts.fragment:
        raise ConfigError(f"{name} names no model; give http(s)://HOST/v1#MODEL")
    key = parse_qs(parts.query).get("key", [None])[0]
    url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
    shown = f"{url}#{parts.fragment}"
    missing = MissingWeights(shown)
    return ServiceModel(missing, missing, shown, service=ChatService(url, parts.fragment, key))
