// The live page: a websocket's updates as tables and two lines. All text goes in by textContent.
"use strict";

const REQUESTS_MAX = 50;
const SECONDS_MAX = 120;
const BACK_OFF_MS_MAX = 15000;
const NANOUSD_PER_USD = 1e9;
const SILENCE_MS = 5000; // a process that says nothing for so long is gone

const byId = (id) => document.getElementById(id);
const processes = new Map(); // process id -> {at, update}
const rates = [];
const spends = [];
let second = { requests: 0, cost: 0 };
let backOffMs = 500;

function badge(text, kind) {
  const span = document.createElement("span");
  span.className = `badge badge-${kind}`;
  span.textContent = text;
  return span;
}

function row(cells) {
  const tr = document.createElement("tr");
  for (const cell of cells) {
    const td = document.createElement("td");
    if (cell instanceof Node) td.append(cell);
    else if (typeof cell === "object" && cell !== null) {
      td.className = "num";
      td.textContent = cell.number;
    } else td.textContent = cell;
    tr.append(td);
  }
  return tr;
}

const number = (value, unit = "") =>
  ({ number: value === null || value === undefined ? "–" : value.toLocaleString("en-US") + unit });
const usd = (nanousd, digits) => "$" + (nanousd / NANOUSD_PER_USD).toFixed(digits);

function health(deployment) {
  if (deployment.state !== "active") return badge(deployment.state, "muted");
  const kinds = { healthy: "ok", unhealthy: "bad", unknown: "muted" };
  const made = badge(deployment.health, kinds[deployment.health] || "muted");
  made.title = deployment.reason;
  return made;
}

const breaker = (phase) => badge(phase.replace("_", " "), { closed: "ok", half_open: "warn", open: "bad" }[phase]);

// Several gateway processes serve one fleet: what each has in flight adds up.
function fleet() {
  const rows = new Map();
  for (const { update } of processes.values()) {
    for (const deployment of update.fleet) {
      const key = `${deployment.cluster}\n${deployment.model}`;
      const known = rows.get(key);
      if (known) known.in_flight += deployment.in_flight;
      else rows.set(key, { ...deployment });
    }
  }
  return [...rows.values()].sort((a, b) => a.cluster.localeCompare(b.cluster) || a.model.localeCompare(b.model));
}

function showFleet() {
  const rows = fleet();
  byId("live-fleet").replaceChildren(
    ...rows.map((d) =>
      row([d.cluster, d.model, health(d), breaker(d.breaker), number(d.in_flight), number(d.queue_depth),
        number(d.tokens_per_s), number(d.ttft_ms, " ms")])));
  byId("live-in-flight").textContent = rows.reduce((sum, d) => sum + d.in_flight, 0).toLocaleString("en-US");
}

function showRequests(requests) {
  const body = byId("live-requests");
  for (const line of requests) {
    const outcome = badge(line.outcome, { ok: "ok", cancelled: "warn" }[line.outcome] || "bad");
    const time = new Date().toLocaleTimeString("en-GB");
    body.prepend(row([time, line.model, line.cluster, line.team, outcome, number(line.input_tokens),
      number(line.output_tokens), { number: usd(line.cost_nanousd, 9) }, number(line.ttft_ms, " ms")]));
  }
  while (body.children.length > REQUESTS_MAX) body.lastElementChild.remove();
}

function draw(id, values) {
  const top = Math.max(...values, 1e-9);
  const points = values.map((v, i) => `${(i * 120) / (SECONDS_MAX - 1)},${(23 - (22 * v) / top).toFixed(2)}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  line.setAttribute("class", "sparkline-line");
  byId(id).replaceChildren(line);
}

function tick() {
  rates.push(second.requests);
  spends.push(second.cost);
  second = { requests: 0, cost: 0 };
  for (const values of [rates, spends]) if (values.length > SECONDS_MAX) values.shift();
  const lately = (values) => values.slice(-10).reduce((a, b) => a + b, 0) / Math.min(values.length, 10);
  byId("live-rate").textContent = lately(rates).toFixed(1);
  byId("live-spend").textContent = usd(lately(spends) * 60, 6);
  draw("live-rate-line", rates);
  draw("live-spend-line", spends);
  for (const [id, { at }] of processes) if (Date.now() - at > SILENCE_MS) processes.delete(id);
}

function status(text, kind) {
  const element = byId("live-status");
  element.textContent = text;
  element.className = `badge badge-${kind}`;
}

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  const socket = new WebSocket(`${scheme}://${location.host}/ws/live/`);
  socket.onopen = () => {
    backOffMs = 500;
    status("Connected", "ok");
  };
  socket.onmessage = (message) => {
    const update = JSON.parse(message.data);
    processes.set(update.process, { at: Date.now(), update });
    second.requests += update.request_count;
    second.cost += update.cost_nanousd;
    showRequests(update.requests);
    showFleet();
  };
  socket.onclose = () => {
    status(`Disconnected: trying again in ${Math.round(backOffMs / 1000) || 1} s`, "bad");
    setTimeout(connect, backOffMs);
    backOffMs = Math.min(backOffMs * 2, BACK_OFF_MS_MAX);
  };
}

setInterval(tick, 1000);
connect();
