"""A chat completion from a request of Google's: whole documents, and refusals that name the member."""

import pytest

from gateway.errors import InvalidRequestError, UnsupportedError
from gateway.portable_chat import portable_chat
from gateway.surfaces.gemini import translate_counted, translate_embedding
from gateway.surfaces.gemini_request import chat_of_generate, shows_thinking
from gateway.surfaces.gemini_schema import json_schema


def text(said, **more):
    return {"text": said, **more}


def user(*parts):
    return {"role": "user", "parts": list(parts)}


def model(*parts):
    return {"role": "model", "parts": list(parts)}


def asked(*contents, **members):
    return {"model": "m", "contents": list(contents) or [user(text("Hi"))], **members}


def portable(*contents, **members):
    return portable_chat(chat_of_generate(asked(*contents, **members)))


def called(name, *, call_id=None, **more):
    given = {} if call_id is None else {"id": call_id}
    return {"functionCall": {"name": name, "args": {"x": 1}, **given}, **more}


def responded(name, *, call_id=None):
    given = {} if call_id is None else {"id": call_id}
    return {"functionResponse": {"name": name, "response": {"sky": "clear"}, **given}}


def test_simple_request_is_a_simple_chat():
    assert portable() == {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    assert portable_chat(chat_of_generate({"model": "m", "contents": {"parts": [text("Hi")]}})) == portable()


def test_everything_that_has_a_translation_is_translated():
    schema = {"type": "OBJECT", "properties": {"city": {"type": "STRING", "nullable": True}}}

    chat = portable(
        system_instruction={"parts": [text("Be brief.")]},
        stream=True,
        tools=[
            {
                "function_declarations": [
                    {"name": "f", "description": "F.", "parameters": schema},
                    {"name": "g", "parametersJsonSchema": {"type": "object"}},
                ]
            }
        ],
        toolConfig={"functionCallingConfig": {"mode": "ANY"}},
        generationConfig={
            "temperature": 0.5,
            "top_p": 0.9,
            "topK": 4,
            "maxOutputTokens": 9,
            "stopSequences": ["END"],
            "seed": 3,
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "candidateCount": 1,
            "responseMimeType": "application/json",
            "responseSchema": {**schema, "required": ["city"]},
            "thinkingConfig": {"thinkingBudget": 5000, "includeThoughts": True},
        },
        safetySettings=[{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
        min_p=0.1,
    )

    wanted = {"type": "object", "properties": {"city": {"type": ["string", "null"]}}}
    kept = {**wanted, "required": ["city"], "additionalProperties": False}
    assert chat == {
        "model": "m",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
        "min_p": 0.1,
        "tools": [
            {"type": "function", "function": {"name": "f", "description": "F.", "parameters": wanted}},
            {"type": "function", "function": {"name": "g", "parameters": {"type": "object"}}},
        ],
        "tool_choice": "required",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 4,
        "max_tokens": 9,
        "stop": ["END"],
        "seed": 3,
        "presence_penalty": 0.1,
        "frequency_penalty": 0.2,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": kept, "strict": True},
        },
        "reasoning_effort": "medium",
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def test_members_of_a_chat_do_not_replace_what_is_asked():
    assert portable(messages=[], n=0, stream_options={}) == portable()


@pytest.mark.parametrize("count", [40.0, 40])
def test_whole_number_is_sent_as_one(count):
    top_k = chat_of_generate(asked(generationConfig={"topK": count}))["top_k"]

    assert (type(top_k), top_k) == (int, 40)


def test_media_travel_as_a_chat_has_them():
    parts = [
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}},
        {"inline_data": {"mime_type": "audio/wav", "data": "BBBB"}},
        {"inlineData": {"mimeType": "video/mp4", "data": "CCCC"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "DDDD"}},
        {"inlineData": {"mimeType": "text/plain", "data": "R3LDvMOfZQ=="}},
        {"fileData": {"fileUri": "https://site.example/a.png"}},
    ]

    [message] = portable(user(*parts))["messages"]

    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "input_audio", "input_audio": {"data": "BBBB", "format": "wav"}},
        {"type": "video_url", "video_url": {"url": "data:video/mp4;base64,CCCC"}},
        {
            "type": "file",
            "file": {"filename": "document.pdf", "file_data": "data:application/pdf;base64,DDDD"},
        },
        {"type": "text", "text": "Grüße"},
        {"type": "image_url", "image_url": {"url": "https://site.example/a.png"}},
    ]


@pytest.mark.parametrize("data", ["-__-AA==", "-__-AA", "+//+AA=="])
def test_media_are_in_the_base64_that_backends_take(data):
    [message] = portable(user({"inlineData": {"mimeType": "image/png", "data": data}}))["messages"]

    assert message["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,+//+AA=="}}
    ]


def test_pictures_of_a_function_follow_its_result():
    picture = {"inline_data": {"mime_type": "image/png", "data": "AAAA"}}
    response = responded("f")
    response["functionResponse"]["parts"] = [picture]

    messages = portable(user(text("Hi")), model(called("f")), user(response, text("And?")))["messages"]

    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "call_0", "content": '{"sky":"clear"}'},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What tool call call_0 returned besides text:"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "text", "text": "And?"},
            ],
        },
    ]


def test_calls_without_ids_are_answered_in_their_order():
    conversation = [
        user(text("Hi")),
        model(text("Hm.", thought=True), called("f"), called("g", call_id="own"), called("f")),
        user(responded("f"), responded("g", call_id="own"), responded("f"), text("And?")),
    ]

    messages = portable(*conversation)["messages"]

    result = '{"sky":"clear"}'
    assert [call["id"] for call in messages[1]["tool_calls"]] == ["call_0", "own", "call_2"]
    assert messages[1]["reasoning_content"] == "Hm."
    assert messages[2:] == [
        {"role": "tool", "tool_call_id": "call_0", "content": result},
        {"role": "tool", "tool_call_id": "own", "content": result},
        {"role": "tool", "tool_call_id": "call_2", "content": result},
        {"role": "user", "content": "And?"},
    ]


def test_pieces_of_a_stream_are_one_message():
    pieces = [text("Hm", thought=True), text(".", thought=True), text("Hel"), text("lo."), text("")]

    messages = portable(user(text("Hi")), *map(model, pieces), user(text("And?")))["messages"]

    assert messages == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello.", "reasoning_content": "Hm."},
        {"role": "user", "content": "And?"},
    ]


def test_signature_of_a_call_is_kept_for_its_maker_alone():
    chat = chat_of_generate(
        asked(user(text("Hi")), model(called("f", thoughtSignature="s")), user(responded("f")))
    )

    [for_google], [for_others] = (
        portable_chat(chat, keeps_signatures=keeps)["messages"][1]["tool_calls"] for keeps in (True, False)
    )
    assert for_google["extra_content"] == {"google": {"thought_signature": "s"}}
    assert "extra_content" not in for_others


@pytest.mark.parametrize(
    ("calling", "names", "choice"),
    [
        ({"mode": "AUTO"}, ["f", "g"], "auto"),
        ({"mode": "NONE"}, ["f", "g"], "none"),
        ({"mode": "VALIDATED"}, ["f", "g"], "auto"),
        ({"mode": "ANY"}, ["f", "g"], "required"),
        (
            {"mode": "ANY", "allowedFunctionNames": ["g"]},
            ["g"],
            {"type": "function", "function": {"name": "g"}},
        ),
    ],
)
def test_which_function_may_be_called_is_said(calling, names, choice):
    chat = portable(
        tools=[{"functionDeclarations": [{"name": "f"}, {"name": "g"}]}],
        toolConfig={"functionCallingConfig": calling},
    )

    assert [tool["function"]["name"] for tool in chat["tools"]] == names
    assert chat["tool_choice"] == choice


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"thinkingBudget": 0}, "none"),
        ({"thinkingBudget": 1024}, "low"),
        ({"thinkingBudget": 30_000}, "high"),
        ({"thinkingBudget": -1}, None),
        ({"thinkingLevel": "LOW"}, "low"),
        ({"thinkingLevel": "minimal"}, "minimal"),
        ({"includeThoughts": True}, None),
    ],
)
def test_thinking_is_an_effort(thinking, effort):
    request = asked(generationConfig={"thinkingConfig": thinking})

    assert chat_of_generate(request).get("reasoning_effort") == effort
    assert shows_thinking(request) == thinking.get("includeThoughts", False)


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"cachedContent": "cachedContents/1"}, "cachedContent"),
        ({"tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        ({"tools": [{"codeExecution": {}}]}, "tools[0].codeExecution"),
        ({"generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount"),
        ({"generationConfig": {"responseLogprobs": True}}, "generationConfig.responseLogprobs"),
        ({"generationConfig": {"responseModalities": ["IMAGE"]}}, "generationConfig.responseModalities"),
        ({"generationConfig": {"responseMimeType": "text/x.enum"}}, "generationConfig.responseMimeType"),
        ({"generationConfig": {"whatever": 1}}, "generationConfig.whatever"),
        ({"contents": [model(text("Hi"))]}, "contents[0].role"),
        ({"contents": [user({"executableCode": {"code": "1"}})]}, "contents[0].parts[0].executableCode"),
        (
            {"contents": [user({"inlineData": {"mimeType": "model/gltf", "data": "AA=="}})]},
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            {"contents": [user({"fileData": {"fileUri": "gs://bucket/a.png"}})]},
            "contents[0].parts[0].fileData.fileUri",
        ),
    ],
)
def test_what_has_no_translation_is_refused_by_name(members, param):
    with pytest.raises(UnsupportedError) as caught:
        chat_of_generate({**asked(), **members})

    assert caught.value.param == param


@pytest.mark.parametrize(
    ("members", "param"),
    [
        ({"contents": []}, "contents"),
        ({"contents": [{"role": "user", "parts": []}]}, "contents[0].parts"),
        ({"contents": [{"role": "system", "parts": [text("a")]}]}, "contents[0].role"),
        ({"contents": [user({})]}, "contents[0].parts[0].text"),
        ({"contents": [user({"text": "a", "functionCall": {}})]}, "contents[0].parts[0].text"),
        ({"contents": [user(responded("f"))]}, "contents[0].parts[0].functionResponse.name"),
        (
            {"contents": [user({"inlineData": {"mimeType": "text/plain", "data": "!"}})]},
            "contents[0].parts[0].inlineData.data",
        ),
        ({"generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}}, "toolConfig.functionCallingConfig.mode"),
        (
            {"toolConfig": {"functionCallingConfig": {"allowedFunctionNames": [[]]}}},
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        (
            {
                "tools": [{"functionDeclarations": [{"name": "f"}]}],
                "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}},
            },
            "toolConfig.functionCallingConfig.allowedFunctionNames",
        ),
        ({"generationConfig": {"responseSchema": {}}}, "generationConfig.responseMimeType"),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingBudget": -2}}},
            "generationConfig.thinkingConfig.thinkingBudget",
        ),
        (
            {"generationConfig": {"thinkingConfig": {"thinkingLevel": "most"}}},
            "generationConfig.thinkingConfig.thinkingLevel",
        ),
    ],
)
def test_what_is_wrong_is_refused_by_name(members, param):
    with pytest.raises(InvalidRequestError) as caught:
        chat_of_generate({**asked(), **members})

    assert caught.value.param == param


def test_schema_of_googles_is_json_schema():
    schema = {
        "type": "ARRAY",
        "min_items": "1",
        "items": {
            "anyOf": [
                {"type": "INTEGER", "format": "int32"},
                {"type": "OBJECT", "properties": {"type": {"type": "STRING", "enum": ["a"]}}},
            ]
        },
        "propertyOrdering": ["a"],
    }

    assert json_schema(schema) == {
        "type": "array",
        "minItems": 1,
        "items": {
            "anyOf": [
                {"type": "integer", "format": "int32"},
                {"type": "object", "properties": {"type": {"type": "string", "enum": ["a"]}}},
            ]
        },
    }


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (
            {"type": "STRING", "enum": ["a"], "nullable": True},
            {"type": ["string", "null"], "enum": ["a", None]},
        ),
        (
            {"any_of": [{"type": "INTEGER"}, {"type": "STRING"}], "nullable": True},
            {"anyOf": [{"type": "integer"}, {"type": "string"}, {"type": "null"}]},
        ),
        ({"type": "STRING", "nullable": False}, {"type": "string"}),
    ],
)
def test_what_may_be_null_may_be_so_in_json_schema(schema, wanted):
    assert json_schema(schema) == wanted


@pytest.mark.parametrize(
    ("schema", "is_kept"),
    [
        ({"properties": {"a": {"type": "STRING"}}, "required": ["a"]}, True),
        ({"properties": {"a": {"type": "STRING"}}}, False),
        ({"properties": {"a": {"type": "STRING", "format": "byte"}}, "required": ["a"]}, False),
        ({"properties": {"a": {"type": "OBJECT"}}, "required": ["a"]}, False),
        ({"properties": {"a": {"type": "ARRAY", "items": {"type": "OBJECT"}}}, "required": ["a"]}, False),
        ({"properties": {"a": {"anyOf": [{"type": "OBJECT"}]}}, "required": ["a"]}, False),
        ({"properties": 1}, False),
        ({"properties": {}, "required": 1}, False),
    ],
)
def test_form_is_kept_strictly_where_openai_takes_it_so(schema, is_kept):
    config = {"responseMimeType": "application/json", "responseSchema": {"type": "OBJECT", **schema}}

    chat = chat_of_generate(asked(generationConfig=config))

    assert chat["response_format"]["json_schema"]["strict"] is is_kept


def test_json_schema_travels_as_it_came():
    schema = {
        "$defs": {"Inner": {"type": "object", "properties": {"a": {"type": "integer"}}}},
        "type": "object",
        "properties": {"inner": {"$ref": "#/$defs/Inner"}},
        "required": ["inner"],
        "additionalProperties": False,
    }
    config = {"responseMimeType": "application/json", "responseJsonSchema": schema}

    chat = chat_of_generate(asked(generationConfig=config))

    named = {"name": "answer", "schema": schema, "strict": False}
    assert chat["response_format"] == {"type": "json_schema", "json_schema": named}


def test_contents_are_counted_alone_or_within_a_request():
    alone = translate_counted(asked())
    within = translate_counted(
        {"model": "m", "generateContentRequest": {"model": "models/m", "contents": [user(text("Hi"))]}}
    )

    assert alone.document == within.document == chat_of_generate(asked())


def test_history_that_ends_with_the_models_words_is_counted():
    counted = translate_counted(asked(user(text("Hi")), model(text("Hello."))))

    assert portable_chat(counted.document)["messages"] == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
    ]


def test_embeddings_are_asked_for_one_by_one_or_together():
    one = translate_embedding(
        {"model": "m", "content": user(text("a"), text("b")), "taskType": "CLUSTERING"}, is_batch=False
    )
    both = translate_embedding(
        {
            "model": "m",
            "requests": [
                {"model": "models/m", "content": user(text(said)), "outputDimensionality": 3}
                for said in ("a", "b")
            ],
        },
        is_batch=True,
    )

    assert one.document == {"model": "m", "input": ["ab"], "encoding_format": "float"}
    assert both.document == {
        "model": "m",
        "input": ["a", "b"],
        "encoding_format": "float",
        "dimensions": 3,
    }
    with pytest.raises(UnsupportedError, match="outputDimensionality"):
        translate_embedding(
            {
                "requests": [
                    {"content": user(text("a"))},
                    {"content": user(text("b")), "outputDimensionality": 3},
                ]
            },
            is_batch=True,
        )
