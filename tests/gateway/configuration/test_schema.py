import pytest

from tests.gateway.configuration.files import CANARY_SECRET, ENVIRONMENT, REFERENCE

pytestmark = pytest.mark.django_db

OWN = "clusters:\n  - name: a\n    endpoint: https://a.example.com\n"
PROVIDER = "externalProviders:\n  - name: p\n    type: openai\n    authType: none\n"


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (
            "cluster: []\n",
            [
                (
                    '1:1: cluster: found the unknown key "cluster"; write one of server, router, clusters, '
                    "externalProviders, routes (did you mean clusters?)"
                )
            ],
        ),
        ("clusters: {a: 1}\n", ["1:11: clusters: found a section; write a list, each entry after a hyphen"]),
        ("server: 8080\n", ['1:9: server: found "8080"; write keys with values under it']),
        (
            "server: {port: 80800}\n",
            ['1:16: server.port: found "80800"; write a whole number from 1 to 65535'],
        ),
        (
            "server: {ports: 1}\n",
            [
                (
                    '1:10: server.ports: found the unknown key "ports"; write one of port, readTimeout, '
                    "writeTimeout, idleTimeout (did you mean port?)"
                )
            ],
        ),
        (
            "router: {routingStrategy: smart_hybrid}\n",
            [
                (
                    '1:27: router.routingStrategy: found "smart_hybrid"; write marginal, hybrid, cost, '
                    "latency, "
                    "cluster_first, external_first, least_busy or weighted (did you mean hybrid?)"
                )
            ],
        ),
        ("clusters:\n  - endpoint: https://a.example.com\n", ["2:5: clusters[0]: name is missing; write it"]),
        ("clusters:\n  - name: a\n", ["2:5: clusters[0]: endpoint is missing; write it"]),
        (
            OWN + "    authType: hmca\n",
            [
                (
                    '4:15: clusters[0].authType: found "hmca"; write none, bearer, hmac, mtls or sigv4 '
                    "(did you mean hmac?)"
                )
            ],
        ),
        (
            OWN + "    costPerHour: 0.0000000001\n",
            [
                (
                    '4:18: clusters[0].costPerHour: found "0.0000000001"; write an amount in USD from 0 to '
                    "1000000 with at most 9 digits after the point"
                )
            ],
        ),
        (
            OWN + "    sharedSecret: hunter2\n",
            [
                (
                    "4:19: clusters[0].sharedSecret: there is no authType beside it; write authType: "
                    "hmac, bearer or sigv4, or remove it"
                )
            ],
        ),
        (
            OWN + "    authType: hmac\n    certFile: x.pem\n",
            [
                "5:15: clusters[0].certFile: authType is hmac beside it; write authType: mtls, or remove it",
            ],
        ),
        (
            OWN + "    authType: hmac\n",
            [
                (
                    "2:11: clusters[0].name: authType hmac needs sharedSecret or sharedSecretFile; write "
                    "it, or "
                    "authType: none"
                )
            ],
        ),
        (
            OWN + "    authType: hmac\n    sharedSecret: ${NOT_SET}\n",
            [
                (
                    "5:19: clusters[0].sharedSecret: NOT_SET is not set (or empty) in the environment; "
                    "set it, or "
                    "write the value here"
                )
            ],
        ),
        (
            OWN + "    authType: bearer\n    sharedSecret: two words\n",
            [
                (
                    "5:19: clusters[0].sharedSecret: the token has characters that no header may carry: "
                    "copy it "
                    "again, without spaces"
                )
            ],
        ),
        (
            OWN + "    authType: hmac\n    sharedSecretFile: nowhere.txt\n",
            [
                (
                    '5:23: clusters[0].sharedSecretFile: cannot read the file "nowhere.txt" (No such file or '
                    "directory); write the path of one"
                )
            ],
        ),
        (
            OWN + "    region: ${NOT_SET}\n",
            [
                (
                    "4:13: clusters[0].region: NOT_SET is not set (or empty) in the environment; set it, "
                    "or write "
                    "the value here"
                )
            ],
        ),
        (
            "clusters:\n  - {name: a, endpoint: http://10.0.0.7}\n",
            [
                (
                    "2:25: clusters[0].endpoint: found a private or loopback address, or this machine's "
                    "name; "
                    "write allowPrivateNetwork: true beside it if that is meant"
                )
            ],
        ),
        (
            OWN + "  - name: a\n    endpoint: https://b.example.com\n",
            ['4:11: clusters[1].name: the name "a" stands on line 2 already; write each once'],
        ),
        (
            OWN + "    models: [{name: m, inputPerMTok: 1}]\n",
            [
                (
                    "4:38: clusters[0].models[0].inputPerMTok: a price needs both inputPerMTok and "
                    "outputPerMTok; write the other one too"
                )
            ],
        ),
        (
            OWN + "    models: [m, {name: m}]\n",
            ['4:24: clusters[0].models[1].name: the name "m" stands on line 4 already; write each once'],
        ),
        (
            OWN + "    models: [{name: m, inputPerMTok: 0.0000001, outputPerMTok: 1}]\n",
            [
                (
                    '4:38: clusters[0].models[0].inputPerMTok: found "0.0000001"; write an amount in USD '
                    "from 0 "
                    "to 1000000 with at most 6 digits after the point"
                )
            ],
        ),
        (
            OWN + "    models: [{name: m, capabilities: [chats]}]\n",
            [
                (
                    '4:38: clusters[0].models[0].capabilities: found "chats"; write chat, completions, '
                    "embeddings, tools, vision, json_schema or reasoning (did you mean chat?)"
                )
            ],
        ),
        (
            OWN + "    models: ['a,b']\n",
            [
                (
                    "4:14: clusters[0].models[0]: model: 'a,b' is no model name: no commas, line breaks or "
                    "spaces around it"
                )
            ],
        ),
        (
            OWN + "    apiKey: hunter2\n",
            [
                (
                    '4:5: clusters[0].apiKey: found the unknown key "apiKey"; write one of name, endpoint, '
                    "provider, region, costPerHour, replicas, authType, backend, billing, tokensPerSecond, "
                    "maxInFlight, allowPrivateNetwork, expandAddresses, defaultModel, discoverModels, tags, "
                    "state, rateLimit, models, sharedSecret, sharedSecretFile, certFile, keyFile, caFile, "
                    "spotPrices, waking"
                )
            ],
        ),
        (
            "externalProviders:\n  - {name: p, type: anthropic}\n",
            [
                (
                    '2:21: externalProviders[0].type: found "anthropic"; write openai, azure, claude, '
                    "gemini, bedrock, mistral, groq, together, deepseek, openrouter, fireworks, cerebras "
                    "or xai"
                )
            ],
        ),
        (
            "externalProviders:\n  - {name: p, type: azure, apiKey: k}\n",
            ["2:5: externalProviders[0]: azure has no address of its own; write endpoint"],
        ),
        (
            "externalProviders:\n  - {name: p, type: groq, apiKeys: [{name: a}, {apiKey: k}]}\n",
            [
                f"2:{column}: externalProviders[0].apiKeys[{index}]: "
                "a key needs a name, and apiKey or apiKeyFile; write both"
                for index, column in enumerate((37, 48))
            ],
        ),
        (
            (
                "externalProviders:\n"
                "  - {name: p, type: groq, apiKeys: [{name: a, apiKey: k}, {name: a, apiKey: l}]}\n"
            ),
            [
                (
                    "2:77: externalProviders[0].apiKeys[1].apiKey: "
                    "the bearer secret is there already; write it once"
                )
            ],
        ),
        (
            "externalProviders:\n  - {name: p, type: openai}\n",
            ["2:12: externalProviders[0].name: authType bearer needs apiKey; write it, or authType: none"],
        ),
        (
            PROVIDER + "    enabled: false\n    state: active\n",
            ["5:14: externalProviders[0].enabled: state is active beside it; remove one of the two"],
        ),
        (
            PROVIDER + "    endpoint: https://a.example.com\n    baseURL: https://a.example.com\n",
            [
                "6:14: externalProviders[0].baseURL: endpoint says it already; write one of the two",
            ],
        ),
        ("routes:\n  - model: fast\n", ["2:5: routes[0]: candidates is missing; write it"]),
        (
            "routes:\n  - {model: fast, candidates: []}\n",
            ["2:31: routes[0].candidates: found no model; write at least one"],
        ),
        (
            (
                "routes:\n  - {model: f, candidates: [a],"
                " experiment: {name: x, arms: [{model: a, weight: 0}, {model: b, weight: 0}]}}"
            ),
            ["2:61: routes[0].experiment.arms: all weights are 0; give at least one arm more"],
        ),
        (
            "routes:\n  - {model: f, candidates: [a], experiment: {arms: []}}\n",
            [
                "2:45: routes[0].experiment: name is missing; write it",
                (
                    "2:52: routes[0].experiment.arms: an experiment compares 2 to 10 arms; name each with "
                    "its model and its weight"
                ),
            ],
        ),
    ],
)
def test_refusal_names_the_line_and_what_would_be_right(refusals, text, lines):
    assert refusals(text) == lines


def test_every_problem_is_shown_at_once_and_nothing_is_imported(refusals):
    text = (
        "router: {overheadFactor: x}\n" + OWN + "  - {name: b, endpoint: http://127.0.0.1}\n"
        "  - {name: c, endpoint: https://c.example.com, tier: 1}\n"
        "routes:\n  - {model: f, candidates: ['a,b']}\n"
    )

    lines = refusals(text)

    assert [line.partition(": ")[2].partition(":")[0] for line in lines] == [
        "router.overheadFactor",
        "clusters[1].endpoint",
        "clusters[2].tier",
        "routes[0].model",
    ]


def test_problems_show_no_secret_of_a_refused_file(refusals):
    lines = refusals(REFERENCE.replace("authType: hmac", "authType: mtls"), ENVIRONMENT)

    assert CANARY_SECRET not in "\n".join(lines)
