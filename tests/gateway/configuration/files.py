"""Configuration files for tests: the seed's example and one that uses every field."""

from pathlib import Path

SEED_FILE = Path(__file__).resolve().parents[3] / "deploy" / "config-dev.yaml"

# The example of the configuration reference, as it stands there.
REFERENCE = """\
server:  {port: 8080, readTimeout: 30s, writeTimeout: 120s, idleTimeout: 60s}
router:
  stickinessWindow: 60s
  healthCheckInterval: 30s
  maxLatencyMs: 5000
  maxQueueDepth: 10
  overheadFactor: 1.1
  routingStrategy: marginal       # marginal | hybrid | cost | latency | cluster_first | external_first
  clusterCostThreshold: 0.01      # USD per 1K tokens
  enableExternalFallback: true
clusters:
  - name: aws-us-east-1
    endpoint: https://aws.llm.example.com
    provider: aws
    region: us-east-1
    costPerHour: 0.0928
    authType: hmac                # hmac | mtls | bearer | none
    sharedSecret: ${AWS_SECRET}   # or sharedSecretFile; mtls: certFile, keyFile, caFile
    backend: vllm                 # vllm | sglang | llamacpp | tgi | ollama | openai
    billing: committed            # committed | autoscaled
    tokensPerSecond: 900          # rated output tokens/s at full batch; measurement takes over
    maxInFlight: 64
    models:                       # left out: what the cluster's own /v1/models lists
      - {name: llama-3-8b, upstreamName: meta-llama/Llama-3-8B-Instruct, contextWindow: 8192,
         capabilities: [chat, tools]}
externalProviders:
  - name: openai
    type: openai                  # openai | claude | gemini
    enabled: true
    apiKey: ${OPENAI_API_KEY}
    endpoint: https://api.openai.com
    defaultModel: gpt-4o-mini
    rateLimit: {requestsPerMinute: 3500, tokensPerMinute: 90000, burstMultiplier: 1.5}
    models:                       # prices in USD per million tokens; left out: from the price library
      - {name: gpt-4o-mini, inputPerMTok: 0.15, outputPerMTok: 0.60, cachedInputPerMTok: 0.075,
         contextWindow: 128000}
routes:                           # public model names; left out: each model's own name
  - model: fast
    candidates: [llama-3-8b, gpt-4o-mini]
    fallbacks: [gpt-4o]
    experiment: {name: mini-vs-llama, arms: [{model: llama-3-8b, weight: 90},
      {model: gpt-4o-mini, weight: 10}]}
"""
CANARY_SECRET = "canary-hmac-7f3a9c"
CANARY_KEY = "sk-canary-51be02"
ENVIRONMENT = {"AWS_SECRET": CANARY_SECRET, "OPENAI_API_KEY": CANARY_KEY}

# Every field that the reference leaves out.
ODDITIES = """\
clusters:
  - name: lab_1
    endpoint: http://127.0.0.1:9000
    allowPrivateNetwork: true
    expandAddresses: true
    discoverModels: always
    provider: "on #1"
    costPerHour: 1.000000001
    replicas: 0
    authType: bearer
    sharedSecret: ${LAB_SECRET}
    backend: llamacpp
    billing: autoscaled
    spotPrices:
      - {from: "2029-12-31T10:00:00+01:00", costPerHour: 2.5}
      - {from: 2030-06-01T00:00Z, costPerHour: 0}
    waking:
      url: http://127.0.0.1:9009/wake
      authType: hmac
      secret: ${LAB_WAKE}
      warmUp: 1m30s
      minBilling: 60s
      scaleDownWindow: 5m
      maxReplicas: 4
    state: draining
    tags: [on-prem, "2026"]
    models:
      - "yes"
      - name: "8080"
        maxOutputTokens: 100
        enabled: false
        inputPerMTok: 0
        outputPerMTok: 0.000001
      - {name: "odd: {name} $${X}", inputPerMTok: 3, outputPerMTok: 15, cacheWrite5mPerMTok: 3.75,
         cacheWrite1hPerMTok: 6, reasoningPerMTok: 16}
externalProviders:
  - name: backup
    type: gemini
    enabled: true
    state: draining
    authType: none
    region: europe
    maxInFlight: 5
    models: [{name: gemini-x, inputPerMTok: 1, outputPerMTok: 2}]
routes:
  - {model: alias, candidates: ["8080"], routingStrategy: latency, whileWaking: wait, enabled: false}
  - {model: shares, candidates: ["8080"], contextFallbacks: [gemini-x], contentFilterFallbacks: ["yes"],
     routingStrategy: weighted, weights: {lab_1: 3, backup: 0}}
"""
