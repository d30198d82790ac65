"use strict";
// The page asks /api/mesh once a second and draws what it gets. What clients sent is only ever set as text.

const SVG = "http://www.w3.org/2000/svg";
const state = { service: null, trace: null, mesh: null };
const byId = (id) => document.getElementById(id);

function element(parent, name, attributes = {}, text = null) {
  const svg = parent.namespaceURI === SVG;
  const made = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  parent.appendChild(made);
  return made;
}

const number = (value, digits = 1) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (value) => (value === null || value === undefined ? "–" : (value * 100).toFixed(1) + "%");
const health = (success) => (success === null || success === undefined ? "dim" : success >= 0.99 ? "good" : success >= 0.9 ? "warn" : "bad");

// --- the graph: callers on the left, each service one step right of who calls it ---

function layers(edges) {
  const names = new Set();
  const into = new Map();
  for (const edge of edges) {
    names.add(edge.source).add(edge.destination);
    if (edge.source !== edge.destination) {
      into.set(edge.destination, (into.get(edge.destination) || new Set()).add(edge.source));
    }
  }
  const depth = new Map();
  const find = (name, path) => {
    if (depth.has(name)) return depth.get(name);
    if (path.has(name)) return 0; // a circle begins anywhere
    const callers = [...(into.get(name) || [])].map((caller) => find(caller, new Set(path).add(name)) + 1);
    const own = Math.max(0, ...callers);
    depth.set(name, own);
    return own;
  };
  const rows = [];
  for (const name of [...names].sort()) {
    const at = find(name, new Set());
    (rows[at] = rows[at] || []).push(name);
  }
  return rows.filter(Boolean);
}

const BOX = { width: 196, height: 56, right: 320, down: 92 };
// A closed lock and an open one, 12 by 14.
const LOCK = "M1,6 h10 v8 h-10 z M3.5,6 v-2.5 a2.5,2.5 0 0 1 5,0 v2.5";
const OPEN = "M1,6 h10 v8 h-10 z M3.5,6 v-2.5 a2.5,2.5 0 0 1 5,0";

function drawGraph(mesh) {
  const svg = byId("graph");
  svg.replaceChildren();
  const rows = layers(mesh.edges);
  const tallest = Math.max(1, ...rows.map((row) => row.length));
  const width = Math.max(1, rows.length - 1) * BOX.right + BOX.width + 20;
  const height = tallest * BOX.down + 20;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.style.maxHeight = height + "px";
  const place = new Map();
  rows.forEach((row, column) => row.forEach((name, index) => {
    const top = (height - row.length * BOX.down) / 2 + index * BOX.down + (BOX.down - BOX.height) / 2;
    place.set(name, { x: 10 + column * BOX.right, y: top });
  }));
  const beside = new Map();
  for (const edge of mesh.edges) drawEdge(svg, edge, place, beside);
  const services = new Map(mesh.services.map((service) => [service.service, service]));
  for (const [name, at] of place) drawNode(svg, name, at, services.get(name));
}

function drawEdge(svg, edge, place, beside) {
  const from = place.get(edge.source);
  const to = place.get(edge.destination);
  if (!from || !to || from === to) return;
  const pair = [edge.source, edge.destination].sort().join(" ");
  const shift = (beside.get(pair) || 0) * 26;
  beside.set(pair, (beside.get(pair) || 0) + 1);
  const back = from.x >= to.x;
  const x1 = from.x + (back ? 0 : BOX.width), x2 = to.x + (back ? BOX.width : 0);
  const y1 = from.y + BOX.height / 2 + shift, y2 = to.y + BOX.height / 2 + shift;
  const bend = (x1 + x2) / 2;
  const plain = edge.mutual_tls ? "" : " plain";
  const idle = edge.rate > 0 || edge.open > 0 ? "" : " idle";
  const failing = edge.success !== null && edge.success < 0.5 ? " failing" : "";
  const drawn = element(svg, "path", { class: "edge" + plain + idle + failing, d: `M${x1},${y1} C${bend},${y1} ${bend},${y2} ${x2},${y2}` });
  element(drawn, "title", {}, `${edge.source} calls ${edge.destination} over ${edge.protocol}\n` +
    (edge.mutual_tls ? `mutual TLS; ${edge.source_identity || edge.destination_identity}` : "plaintext") +
    `\n${edge.requests} requests, ${edge.failed} failed`);
  const middle = { x: bend, y: (y1 + y2) / 2 - 6, "text-anchor": "middle" };
  const rate = edge.protocol === "tcp" ? `${edge.open} open` : `${number(edge.rate)} rps`;
  const kind = edge.mutual_tls ? " secure" : plain;
  const at = `translate(${bend - 46},${(y1 + y2) / 2 - 19})`;
  element(svg, "path", { class: "mark" + kind, d: edge.mutual_tls ? LOCK : OPEN, transform: at });
  element(svg, "text", { ...middle, x: bend + 8, class: "label" + kind }, `${edge.protocol} ${rate}`);
}

function drawNode(svg, name, at, service) {
  const node = element(svg, "g", { class: "node" + (name === state.service ? " chosen" : ""), transform: `translate(${at.x},${at.y})`, tabindex: 0 });
  element(node, "rect", { width: BOX.width, height: BOX.height, rx: 8 });
  element(node, "text", { class: "name", x: 12, y: 22 }, name === "unknown" ? "outside" : name);
  if (service) {
    element(node, "text", { class: "dim", x: 12, y: 42 }, `${number(service.rate)} rps  ${percent(service.success)}  p99 ${number(service.p99_ms, 0)} ms`);
  } else {
    element(node, "text", { class: "dim", x: 12, y: 42 }, "no proxy asked");
  }
  node.addEventListener("click", () => choose(name));
}

function choose(name) {
  state.service = state.service === name ? null : name;
  draw();
}

// --- tables ---

function row(body, cells, chosen, click) {
  const made = element(body, "tr", chosen ? { class: "chosen" } : {});
  for (const [text, kind] of cells) element(made, "td", kind ? { class: kind } : {}, text);
  made.addEventListener("click", click);
}

function drawServices(mesh) {
  const body = byId("services");
  body.replaceChildren();
  for (const one of mesh.services) {
    const cells = [
      [`${one.namespace}/${one.service}`], [number(one.rate)], [percent(one.success), health(one.success)],
      [number(one.p50_ms)], [number(one.p95_ms)], [number(one.p99_ms)], [String(one.requests)],
    ];
    row(body, cells, one.service === state.service, () => choose(one.service));
  }
}

const last = (text, mark) => (text || "").split(mark).pop();
const called = (one) => (one.direction === "inbound" ? one.workload : (one.service || "").split(/[.:]/)[0]);
const caller = (one) => (one.direction === "inbound" ? last(one.caller, "/") || "outside" : one.workload);
const isServer = (code) => [2, 4, 12, 13, 14, 15].includes(code);
const failed = (one) => Boolean(one.reject || one.error || one.end === "answer_broke_off" || one.status >= 500 || isServer(one.grpc_status));

function reasons(one) {
  const all = [one.reject, one.error, one.route_template || one.route];
  if (one.attempts > 1) all.push(`${one.attempts} attempts`);
  if (!one.mutual_tls) all.push("plaintext");
  return all.filter(Boolean).join(", ");
}

function drawRequests(mesh) {
  const only = byId("failed").checked;
  byId("chosen").textContent = state.service ? `of ${state.service}` : "";
  const body = byId("requests");
  body.replaceChildren();
  const wanted = mesh.requests.filter((one) => (!only || failed(one)) &&
    (!state.service || called(one) === state.service || caller(one) === state.service));
  for (const one of wanted.slice(-16).reverse()) {
    const what = one.protocol === "tcp" ? `TCP ${one.response_bytes} bytes` : `${one.method} ${one.path}${one.query ? "?" + one.query : ""}`;
    const outcome = one.grpc_status !== undefined ? `grpc ${one.grpc_status}` : String(one.status ?? "–");
    const side = one.direction === "inbound" ? "in" : "out";
    const cells = [
      [(one.time || "").slice(11, 23), "dim"], [caller(one)], [`${called(one)} (${side})`], [what],
      [outcome, failed(one) ? "bad" : "good"], [number(one.duration_ms)], [reasons(one), one.reject || one.error ? "bad" : "dim"],
    ];
    row(body, cells, one.trace_id === state.trace, () => show(one.trace_id));
  }
}

// --- a trace ---

async function show(id) {
  state.trace = id;
  const answer = await fetch(`/api/trace/${encodeURIComponent(id)}`);
  const trace = await answer.json();
  byId("trace-part").hidden = false;
  byId("trace-id").textContent = id;
  drawWaterfall(trace.spans || []);
  draw();
}

function inOrder(spans) {
  const known = new Set(spans.map((span) => span.span_id));
  const below = (parent) => spans.filter((span) => span.parent_id === parent).sort((a, b) => a.start - b.start);
  const roots = spans.filter((span) => !known.has(span.parent_id)).sort((a, b) => a.start - b.start);
  const ordered = [];
  const walk = (span, depth) => {
    if (ordered.some((one) => one.span === span)) return;
    ordered.push({ span, depth });
    for (const child of below(span.span_id)) walk(child, depth + 1);
  };
  roots.forEach((span) => walk(span, 0));
  return ordered;
}

function drawWaterfall(spans) {
  const into = byId("waterfall");
  into.replaceChildren();
  if (spans.length === 0) {
    element(into, "p", { class: "dim" }, "No proxy has spans of this trace any more.");
    return;
  }
  const begin = Math.min(...spans.map((span) => span.start));
  const whole = Math.max(1, Math.max(...spans.map((span) => span.end)) - begin);
  for (const { span, depth } of inOrder(spans)) {
    const line = element(into, "div", { class: "span" });
    const side = { server: "in", client: "out", internal: "all" }[span.kind];
    element(line, "span", {}, "\u00a0".repeat(depth * 2) + span.service + " " + side);
    const track = element(line, "div", { class: "track" });
    const wrong = span.attributes["error.type"];
    const bar = element(track, "div", { class: `bar ${span.kind}${wrong ? " failed" : ""}` });
    bar.style.left = ((span.start - begin) / whole) * 100 + "%";
    bar.style.width = ((span.end - span.start) / whole) * 100 + "%";
    element(line, "span", { class: "took" }, number((span.end - span.start) / 1e6, 2) + " ms");
    element(line, "span");
    element(line, "span", { class: "note" }, note(span, wrong));
  }
}

function note(span, wrong) {
  const about = span.attributes;
  const outcome = about["rpc.status_code"] || about["http.response.status_code"] || "";
  const peer = about["weft.peer.identity"];
  const words = [span.name, span.kind === "client" ? "to " + (about["server.address"] || "") : "", outcome,
    peer ? (span.kind === "server" ? "from " : "which is ") + peer : "without identity"];
  if (wrong && wrong !== outcome) words.push(wrong);
  return words.filter(Boolean).join("  ");
}

// --- once a second ---

function draw() {
  if (!state.mesh) return;
  drawGraph(state.mesh);
  drawServices(state.mesh);
  drawRequests(state.mesh);
}

async function look() {
  const told = byId("state");
  try {
    const answer = await fetch("/api/mesh");
    const mesh = await answer.json();
    if (mesh.error) throw new Error(mesh.error);
    state.mesh = mesh;
    told.className = "";
    told.textContent = `${mesh.proxies} proxies, ${mesh.services.length} services`;
    draw();
  } catch (error) {
    told.className = "bad";
    told.textContent = `no news: ${error.message}`;
  }
  setTimeout(look, 1000);
}

byId("failed").addEventListener("change", draw);
const wanted = new URLSearchParams(location.search);
if (wanted.get("service")) state.service = wanted.get("service");
look().then(() => {
  const id = wanted.get("trace");
  if (id) show(id);
});
