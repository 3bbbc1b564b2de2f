// The live page: a websocket's updates as tables and two lines. All text goes in by textContent.
"use strict";

const REQUESTS_MAX = 50;
const SECONDS_MAX = 120;
const SECONDS_MIN = 30; // the lines' scale at first
const SMOOTHED_SECONDS = 3; // a process's second and the page's do not begin together
const BACK_OFF_MS = 500;
const BACK_OFF_MS_MAX = 15000;
const NANOUSD_PER_USD = 1e9;
const SILENCE_MS = 5000; // a process that says nothing for so long is gone
const LINE = { width: 120, height: 32, margin: 2 };
const OUTCOMES = { ok: "ok", cancelled: "muted", truncated: "warn" };
const HEALTHS = { healthy: "ok", unhealthy: "bad", unknown: "muted" };
const BREAKERS = { closed: "ok", half_open: "warn", open: "bad" };

const byId = (id) => document.getElementById(id);
const processes = new Map(); // process id -> {at, update}
const rates = [];
const spends = [];
let second = { requests: 0, cost: 0 };
let backOffMs = BACK_OFF_MS;
let waiting = []; // rows that came while the list was paused
let isPaused = false;
let isFleetStale = false;

const number = (value, unit = "") => ({
  css: "num", text: value === null || value === undefined ? "–" : value.toLocaleString("en-US") + unit });
const rate = (value) => ({ css: "num", text: value === 0 ? "0" : value.toFixed(value < 10 ? 1 : 0) });

function usd(nanousd) {
  const amount = nanousd / NANOUSD_PER_USD;
  return "$" + amount.toFixed(amount === 0 || amount >= 0.1 ? 2 : amount >= 0.0001 ? 5 : 9);
}

function badge(text, kind, title = "") {
  const span = document.createElement("span");
  span.className = `badge badge-${kind}`;
  span.textContent = text;
  span.title = title;
  return span;
}

// A cell is a node, a text, or {text, css, title, note}.
function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node || typeof cell !== "object") td.append(cell);
    else {
      td.append(cell.text);
      td.className = cell.css || "";
      td.title = cell.title || "";
      if (cell.note) {
        const note = document.createElement("span");
        note.className = "cell-note";
        note.textContent = cell.note;
        td.append(note);
      }
    }
    tr.append(td);
  }
  return tr;
}

// Several gateway processes serve one fleet: what each has in flight and serves adds up; of their
// breakers the most open one is shown, of their times to the first token the longest, and of their shares of
// prompt tokens read from the cache the largest.
function fleet() {
  const rows = new Map();
  for (const { update } of processes.values()) {
    for (const deployment of update.fleet) {
      const key = JSON.stringify([deployment.cluster, deployment.model]);
      const known = rows.get(key);
      if (!known) {
        rows.set(key, { ...deployment });
        continue;
      }
      const phases = Object.keys(BREAKERS);
      known.in_flight += deployment.in_flight;
      known.requests_per_s += deployment.requests_per_s;
      known.ttft_ms = Math.max(known.ttft_ms ?? 0, deployment.ttft_ms ?? 0) || null;
      known.cache_hit_share = Math.max(known.cache_hit_share ?? -1, deployment.cache_hit_share ?? -1);
      if (known.cache_hit_share < 0) known.cache_hit_share = null;
      known.breaker = phases[Math.max(phases.indexOf(known.breaker), phases.indexOf(deployment.breaker))];
    }
  }
  return [...rows.values()].sort((a, b) => a.cluster.localeCompare(b.cluster) || a.model.localeCompare(b.model));
}

function showFleet() {
  isFleetStale = false;
  const rows = fleet();
  byId("live-in-flight").textContent = rows.reduce((sum, d) => sum + d.in_flight, 0).toLocaleString("en-US");
  byId("live-processes").textContent = processes.size === 1 ? "in 1 process" : `in ${processes.size} processes`;
  byId("live-clusters").textContent = new Set(rows.filter((d) => d.state === "active" && d.health === "healthy").map((d) => d.cluster)).size;
  byId("live-clusters-note").textContent = `of ${new Set(rows.map((d) => d.cluster)).size} that serve a model`;
  if (rows.length === 0) return;
  byId("live-fleet").replaceChildren(...rows.map((d) => row([
    { text: d.cluster, note: d.kind === "own" ? "" : d.kind },
    d.model,
    d.state === "active" ? badge(d.health, HEALTHS[d.health] || "muted", d.reason) : badge(d.state, d.state === "waking" ? "warn" : "muted"),
    badge(d.breaker.replace("_", " "), BREAKERS[d.breaker]),
    number(d.in_flight), number(d.queue_depth), rate(d.requests_per_s), number(d.tokens_per_s), number(d.ttft_ms, " ms"),
    number(d.cache_hit_share === null ? null : Math.round(100 * d.cache_hit_share), " %"),
  ])));
}

function requestRow(line, time) {
  const isOther = line.served_model && line.served_model !== line.model;
  return row([
    time, { text: line.model, note: isOther ? `by ${line.served_model}` : "" }, line.cluster,
    { text: line.team, note: line.key }, badge(line.outcome.replace("_", " "), OUTCOMES[line.outcome] || "bad"),
    number(line.input_tokens), number(line.output_tokens),
    { css: "num", text: usd(line.cost_nanousd), title: `$${(line.cost_nanousd / NANOUSD_PER_USD).toFixed(9)}` },
    number(line.ttft_ms, " ms"), number(line.duration_ms, " ms"),
  ]);
}

function showRequests(requests) {
  const time = new Date().toLocaleTimeString("en-GB");
  waiting = [...requests.map((line) => requestRow(line, time)).reverse(), ...waiting].slice(0, REQUESTS_MAX);
  if (isPaused || waiting.length === 0) return;
  const body = byId("live-requests");
  body.querySelector(".empty-cell")?.parentElement.remove();
  body.prepend(...waiting);
  waiting = [];
  while (body.children.length > REQUESTS_MAX) body.lastElementChild.remove();
}

function shape(name, css, points) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  element.setAttribute("points", points.join(" "));
  element.setAttribute("class", css);
  return element;
}

const mean = (values) => values.reduce((a, b) => a + b, 0) / Math.max(values.length, 1);

function draw(id, samples) {
  if (samples.length < 2) return;
  const values = samples.map((_, i) => mean(samples.slice(Math.max(0, i + 1 - SMOOTHED_SECONDS), i + 1)));
  const span = Math.max(values.length, SECONDS_MIN);
  const top = Math.max(...values, 1e-9);
  const floor = LINE.height - LINE.margin;
  const x = (i) => (LINE.width * (span - values.length + i)) / (span - 1);
  const points = values.map((v, i) => `${x(i).toFixed(2)},${(floor - ((floor - LINE.margin) * v) / top).toFixed(2)}`);
  byId(id).replaceChildren(
    shape("polygon", "sparkline-area", [`${x(0).toFixed(2)},${floor}`, ...points, `${LINE.width},${floor}`]),
    shape("polyline", "sparkline-line", points));
}

function tick() {
  rates.push(second.requests);
  spends.push(second.cost);
  second = { requests: 0, cost: 0 };
  for (const values of [rates, spends]) if (values.length > SECONDS_MAX) values.shift();
  const lately = (values) => mean(values.slice(-10));
  byId("live-rate").textContent = lately(rates).toFixed(1);
  byId("live-spend").textContent = usd(lately(spends) * 60);
  draw("live-rate-line", rates);
  draw("live-spend-line", spends);
  for (const [id, { at }] of processes) {
    if (Date.now() - at > SILENCE_MS) {
      processes.delete(id);
      isFleetStale = true;
    }
  }
  if (isFleetStale) showFleet();
}

function status(text, kind) {
  const element = byId("live-status");
  element.textContent = text;
  element.className = `badge badge-${kind}`;
  byId("content").classList.toggle("is-lost", kind === "bad");
}

// The page itself tells whether the server is gone or only the session.
async function isLoggedOut() {
  try {
    const page = await fetch(location.pathname, { method: "HEAD", redirect: "manual" });
    return page.type === "opaqueredirect";
  } catch {
    return false;
  }
}

async function onClose() {
  status("Disconnected", "bad");
  if (await isLoggedOut()) {
    status("Logged out: load the page again", "bad");
    return;
  }
  status(`Disconnected: trying again in ${Math.max(1, Math.round(backOffMs / 1000))} s`, "bad");
  setTimeout(connect, backOffMs);
  backOffMs = Math.min(backOffMs * 2, BACK_OFF_MS_MAX);
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws/live/`);
  socket.onopen = () => {
    backOffMs = BACK_OFF_MS;
    status("Connected", "ok");
  };
  socket.onmessage = (message) => {
    const update = JSON.parse(message.data);
    processes.set(update.process, { at: Date.now(), update });
    second.requests += update.request_count;
    second.cost += update.cost_nanousd;
    showRequests(update.requests);
    isFleetStale = true;
    requestAnimationFrame(() => { if (isFleetStale) showFleet(); });
  };
  socket.onclose = onClose;
}

byId("live-pause").addEventListener("click", (event) => {
  isPaused = !isPaused;
  event.target.textContent = isPaused ? "Go on" : "Pause";
  event.target.setAttribute("aria-pressed", String(isPaused));
  showRequests([]);
});
setInterval(tick, 1000);
connect();
