"""The providers that are known by name: where each answers, how it is spoken to and how it knows us."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """What choosing a provider fills in. `name` is also whom the price library is asked for, see there.

    An empty endpoint is the customer's own and must be entered; `{region}` in it is the cluster's region.
    """

    name: str
    label: str
    endpoint: str
    backend: str = "openai"
    auth_type: str = "bearer"
    region: str = ""

    def endpoint_in(self, region: str) -> str:
        """The endpoint with its region filled in; empty where it must be entered."""
        return self.endpoint.format(region=region or self.region)


PRESETS = {
    preset.name: preset
    for preset in (
        Preset(name="openai", label="OpenAI", endpoint="https://api.openai.com"),
        Preset(name="azure", label="Azure OpenAI", endpoint="", backend="azure"),
        Preset(
            name="claude", label="Anthropic Claude", endpoint="https://api.anthropic.com", backend="claude"
        ),
        Preset(
            name="gemini",
            label="Google Gemini",
            endpoint="https://generativelanguage.googleapis.com",
            backend="gemini",
        ),
        Preset(
            name="bedrock",
            label="AWS Bedrock",
            endpoint="https://bedrock-runtime.{region}.amazonaws.com",
            backend="bedrock",
            auth_type="sigv4",
            region="us-east-1",
        ),
        Preset(name="mistral", label="Mistral", endpoint="https://api.mistral.ai"),
        Preset(name="groq", label="Groq", endpoint="https://api.groq.com/openai"),
        Preset(name="together", label="Together", endpoint="https://api.together.xyz"),
        Preset(name="deepseek", label="DeepSeek", endpoint="https://api.deepseek.com"),
        Preset(name="openrouter", label="OpenRouter", endpoint="https://openrouter.ai/api"),
        Preset(name="fireworks", label="Fireworks", endpoint="https://api.fireworks.ai/inference"),
        Preset(name="cerebras", label="Cerebras", endpoint="https://api.cerebras.ai"),
        Preset(name="xai", label="xAI", endpoint="https://api.x.ai"),
    )
}


def preset_of(*, provider: str, backend: str) -> Preset | None:
    """The preset of a cluster, by who runs it and what it speaks; None: any OpenAI-compatible one."""
    named = PRESETS.get(provider)
    if named is not None and named.backend == backend:
        return named
    return next((preset for preset in PRESETS.values() if preset.backend == backend != "openai"), None)
