"""Which dialect each kind of upstream speaks."""

from collections.abc import Mapping

from gateway.dialects.anthropic import AnthropicDialect
from gateway.dialects.bedrock import BedrockDialect
from gateway.dialects.dialect import Dialect
from gateway.dialects.gemini import GeminiDialect
from gateway.dialects.openai import PATHS, OpenAIDialect

OPENAI: Dialect = OpenAIDialect()
# The v1 API, the same for all models of a resource and without versions by date:
# https://learn.microsoft.com/azure/ai-foundry/openai/api-version-lifecycle
AZURE_PATHS = {surface: "/openai" + path for surface, path in PATHS.items()}
DIALECTS: Mapping[str, Dialect] = {
    "claude": AnthropicDialect(),
    "azure": OpenAIDialect(paths=AZURE_PATHS),
    "gemini": GeminiDialect(),
    "bedrock": BedrockDialect(),
}


def dialect_of(backend: str) -> Dialect:
    """Whatever is not named here speaks OpenAI's."""
    return DIALECTS.get(backend, OPENAI)
