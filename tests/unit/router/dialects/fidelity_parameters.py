"""What requests may ask for beside their messages: more rows of the fidelity table."""

from .fidelity_bodies import ANTHROPIC, CHAT, GEMINI, RESPONSES, Feature, anthropic, chat, responses, same

_SCHEMA = {
    "type": "object",
    "properties": {"markfield": {"type": "string"}},
    "required": ["markfield"],
    "additionalProperties": False,
}
_FORMAT = {"type": "json_schema", "name": "markname", "schema": _SCHEMA, "strict": True}

PARAMETERS = (
    Feature(
        "JSON schema",
        {
            CHAT: chat(
                response_format={
                    "type": "json_schema",
                    "json_schema": {"name": "markname", "schema": _SCHEMA, "strict": True},
                }
            ),
            RESPONSES: responses(text={"format": _FORMAT}),
            ANTHROPIC: anthropic(output_config={"format": {"type": "json_schema", "schema": _SCHEMA}}),
        },
        ("markfield",),
    ),
    Feature(
        "JSON of any shape",
        {
            CHAT: chat(response_format={"type": "json_object"}),
            RESPONSES: responses(text={"format": {"type": "json_object"}}),
        },
        tests={
            CHAT: lambda body: body["response_format"] == {"type": "json_object"},
            RESPONSES: lambda body: body["text"]["format"] == {"type": "json_object"},
            GEMINI: lambda body: body["generationConfig"]["responseMimeType"] == "application/json",
        },
    ),
    Feature(
        "limit of output tokens",
        {
            CHAT: chat(max_completion_tokens=4321),
            RESPONSES: responses(max_output_tokens=4321),
            ANTHROPIC: anthropic(max_tokens=4321),
        },
        ("4321",),
    ),
    Feature("temperature", same(temperature=0.4321), ("0.4321",)),
    Feature(
        "temperature above 1",
        {CHAT: chat(temperature=1.4321), RESPONSES: responses(temperature=1.4321)},
        ("1.4321",),
        {ANTHROPIC: lambda body: body["temperature"] == 1},
    ),
    Feature("top_p", same(top_p=0.4321), ("0.4321",)),
    Feature("top_k", {ANTHROPIC: anthropic(top_k=4321)}, ("4321",)),
    Feature(
        "stop sequences",
        {CHAT: chat(stop=["markstop"]), ANTHROPIC: anthropic(stop_sequences=["markstop"])},
        ("markstop",),
    ),
    Feature("seed", {CHAT: chat(seed=4321)}, ("4321",)),
    Feature("presence penalty", {CHAT: chat(presence_penalty=0.4321)}, ("0.4321",)),
    Feature("frequency penalty", {CHAT: chat(frequency_penalty=0.4321)}, ("0.4321",)),
    Feature("logit bias", {CHAT: chat(logit_bias={"4321": 5})}, ("4321",)),
    Feature(
        "log probabilities",
        {
            CHAT: chat(logprobs=True, top_logprobs=3),
            RESPONSES: responses(include=["message.output_text.logprobs"], top_logprobs=3),
        },
        ("logprobs",),
    ),
    Feature(
        "reasoning effort",
        {
            CHAT: chat(reasoning_effort="high"),
            RESPONSES: responses(reasoning={"effort": "high"}),
            ANTHROPIC: anthropic(thinking={"type": "adaptive"}, output_config={"effort": "high"}),
        },
        tests={
            CHAT: lambda body: body["reasoning_effort"] == "high",
            RESPONSES: lambda body: body["reasoning"]["effort"] == "high",
            ANTHROPIC: lambda body: body["thinking"]["type"] == "enabled",
            GEMINI: lambda body: body["generationConfig"]["thinkingConfig"].keys() > {"includeThoughts"},
        },
    ),
    Feature(
        "reasoning by a budget of tokens",
        {ANTHROPIC: anthropic(thinking={"type": "enabled", "budget_tokens": 4321})},
        ("4321",),
        {
            CHAT: lambda body: "reasoning_effort" in body,
            RESPONSES: lambda body: "effort" in body["reasoning"],
        },
    ),
    Feature(
        "reasoning off",
        {
            CHAT: chat(reasoning_effort="none"),
            RESPONSES: responses(reasoning={"effort": "none"}),
            ANTHROPIC: anthropic(thinking={"type": "disabled"}),
        },
        tests={
            CHAT: lambda body: body["reasoning_effort"] == "none",
            RESPONSES: lambda body: body.get("reasoning", {}).get("effort") == "none",
            ANTHROPIC: lambda body: body["thinking"] == {"type": "disabled"},
            GEMINI: lambda body: body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": 0},
        },
    ),
    Feature(
        "summary of the reasoning",
        {
            RESPONSES: responses(reasoning={"effort": "low", "summary": "detailed"}),
            ANTHROPIC: anthropic(thinking={"type": "adaptive", "display": "summarized"}),
        },
        tests={
            RESPONSES: lambda body: body["reasoning"]["summary"] in {"auto", "detailed"},
            ANTHROPIC: lambda body: body["thinking"]["type"] == "enabled",  # of such a model always a summary
            GEMINI: lambda body: body["generationConfig"]["thinkingConfig"]["includeThoughts"],
        },
    ),
    Feature(
        "service tier",
        {
            CHAT: chat(service_tier="priority"),
            RESPONSES: responses(service_tier="priority"),
            ANTHROPIC: anthropic(service_tier="standard_only"),
        },
        tests={
            CHAT: lambda body: body["service_tier"] in {"priority", "default"},
            RESPONSES: lambda body: body["service_tier"] in {"priority", "default"},
            GEMINI: lambda body: body["serviceTier"].lower() in {"priority", "standard"},
        },
    ),
    Feature(
        "end user",
        {
            CHAT: chat(user="markuser"),
            RESPONSES: responses(safety_identifier="markuser"),
            ANTHROPIC: anthropic(metadata={"user_id": "markuser"}),
        },
        ("markuser",),
    ),
    Feature(
        "verbosity",
        {CHAT: chat(verbosity="low"), RESPONSES: responses(text={"verbosity": "low"})},
        ('"verbosity":"low"',),
    ),
    Feature(
        "key of the prompt cache",
        {CHAT: chat(prompt_cache_key="markkey"), RESPONSES: responses(prompt_cache_key="markkey")},
        ("markkey",),
    ),
    Feature("several choices", {CHAT: chat(n=2)}),
    Feature("speech", {CHAT: chat(modalities=["text", "audio"], audio={"voice": "alloy", "format": "wav"})}),
    Feature("predicted output", {CHAT: chat(prediction={"type": "content", "content": "markwords"})}, ("markwords",)),
    Feature("background response", {RESPONSES: responses(background=True)}),
    Feature("truncation of the input", {RESPONSES: responses(truncation="auto")}, ('"truncation":"auto"',)),
    Feature("container", {ANTHROPIC: anthropic(container="markcontainer")}, ("markcontainer",)),
    Feature(
        "MCP servers",
        {ANTHROPIC: anthropic(mcp_servers=[{"type": "url", "url": "u", "name": "markmcp"}])},
        ("markmcp",),
    ),
    Feature("a parameter yet unknown", same(novelty="marknovelty"), ("marknovelty",)),
    Feature(
        "a field yet unknown of a block",
        {
            CHAT: chat({"role": "user", "content": [{"type": "text", "text": "x", "novelty": "marknovelty"}]}),
            RESPONSES: responses(
                {"role": "user", "content": [{"type": "input_text", "text": "x", "novelty": "marknovelty"}]}
            ),
            ANTHROPIC: anthropic(
                {"role": "user", "content": [{"type": "text", "text": "x", "novelty": "marknovelty"}]}
            ),
        },
        ("marknovelty",),
    ),
)
