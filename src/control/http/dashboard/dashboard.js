// The dashboard: one snapshot a second from /events, drawn into tables that stay where they are. What
// the configuration names is set as text, never as markup.
"use strict";

const SAMPLES = 61; // a minute and its start
const SHARE_SAMPLES = 16; // a share is of the last quarter of a minute
const SVG = "http://www.w3.org/2000/svg";
const samples = [];
let lastNews = "";

const byId = (id) => document.getElementById(id);

function make(name, options = {}, ...children) {
  const { text, ...attributes } = options;
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  element.append(...children);
  return element;
}

function draw(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Numbers for people.

function count(number) {
  if (number < 10000) return String(Math.round(number));
  if (number < 1e6) return (number / 1e3).toFixed(number < 1e5 ? 1 : 0) + " k";
  return (number / 1e6).toFixed(number < 1e8 ? 1 : 0) + " M";
}

function rate(number) {
  return number > 0 && number < 10 ? number.toFixed(1) : count(number);
}

function bytes(number) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (number >= 1024 && unit < units.length - 1) {
    number /= 1024;
    unit += 1;
  }
  return (unit === 0 || number >= 100 ? Math.round(number) : number.toFixed(1)) + " " + units[unit];
}

function duration(seconds) {
  if (seconds < 0.001) return Math.round(seconds * 1e6) + " µs";
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.01 ? 1 : 0) + " ms";
  if (seconds < 60) return (seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)) + " s";
  if (seconds < 3600) return Math.floor(seconds / 60) + " min";
  if (seconds < 86400) return Math.floor(seconds / 3600) + " h " + Math.floor((seconds % 3600) / 60) + " min";
  return Math.floor(seconds / 86400) + " d " + Math.floor((seconds % 86400) / 3600) + " h";
}

function words(name) {
  return name.replaceAll("_", " ");
}

// What has changed over time. `of` finds a counter in a snapshot, or undefined where it is not there.

function steps(of) {
  const rates = [];
  for (let at = 1; at < samples.length; at += 1) {
    const [before, now] = [samples[at - 1], samples[at]];
    const [from, to] = [of(before), of(now)];
    const time = now.uptime_s - before.uptime_s;
    const known = from !== undefined && to !== undefined && time > 0;
    rates.push(known ? Math.max(0, (to - from) / time) : 0);
  }
  return rates;
}

function gain(of) {
  const first = samples.slice(-SHARE_SAMPLES).find((sample) => of(sample) !== undefined);
  const last = samples[samples.length - 1];
  return first === undefined ? 0 : Math.max(0, (of(last) ?? 0) - of(first));
}

function perSecond(of) {
  const rates = steps(of).slice(-3);
  return rates.length === 0 ? 0 : rates.reduce((sum, one) => sum + one, 0) / rates.length;
}

// The duration that this share of those counted within the last minute did not exceed.
function quantile(of, share) {
  const last = of(samples[samples.length - 1]);
  if (last === undefined) return undefined;
  const first = samples.map(of).find((one) => one !== undefined);
  const isAll = samples.length < 3;
  const buckets = Object.entries(last.buckets).map(([bound, now]) => [
    bound === "+Inf" ? Infinity : Number(bound),
    now - (isAll ? 0 : first.buckets[bound] ?? 0),
  ]);
  const total = buckets.reduce((sum, [, many]) => sum + many, 0);
  if (total <= 0) return undefined;
  let left = share * total;
  for (const [bound, many] of buckets.sort((a, b) => a[0] - b[0])) {
    left -= many;
    if (left <= 0) return bound;
  }
  return undefined;
}

function within(of) {
  const [middle, most] = [quantile(of, 0.5), quantile(of, 0.95)];
  if (middle === undefined) return ["–", ""];
  const text = (bound) => (Number.isFinite(bound) ? "≤ " + duration(bound) : "> 1000 s");
  return [text(middle), "95 % " + text(most)];
}

// The mean of each second.
function means(of) {
  const seconds = [];
  for (let at = 1; at < samples.length; at += 1) {
    const [before, now] = [of(samples[at - 1]), of(samples[at])];
    const many = before === undefined || now === undefined ? 0 : now.count - before.count;
    seconds.push(many > 0 ? (now.sum_s - before.sum_s) / many : 0);
  }
  return seconds;
}

// How long something took: the middle, the slowest twentieth, and the last minute as a plot.
function durations(of, name) {
  const [middle, most] = within(of);
  if (most === "") return make("span", { text: middle });
  const text = make("span", {}, make("span", { text: middle }), make("span", { class: "sub", text: most }));
  return make("span", { class: "with-plot" }, text, plot(means(of), `${name} over the last minute`, "spark", 1e-6));
}

// Small plots.

function plot(values, label, className = "spark", least = 1) {
  const svg = draw("svg", {
    class: className,
    viewBox: "0 0 60 20",
    preserveAspectRatio: "none",
    role: "img",
    "aria-label": label,
  });
  update(svg, values, least);
  return svg;
}

function update(svg, values, least = 1) {
  const top = Math.max(least, ...values);
  const start = 60 - values.length + 1;
  const points = values.map((value, at) => `${start + at},${(19 - (value / top) * 18).toFixed(2)}`);
  const parts = [draw("line", { class: "ground", x1: 0, y1: 19.5, x2: 60, y2: 19.5 })];
  if (points.length > 1) {
    parts.push(draw("polygon", { class: "area", points: `${start},19.5 ${points.join(" ")} 60,19.5` }));
    parts.push(draw("polyline", { class: "line", points: points.join(" ") }));
  }
  svg.replaceChildren(...parts);
}

const SIGNS = { "+": "passed", "-": "failed", t: "failed", "?": "open" };

function history(signs) {
  const places = 40;
  const known = [...signs].slice(-places);
  const bad = known.filter((sign) => SIGNS[sign] === "failed").length;
  const label = known.length === 0 ? "no probe yet" : `${bad} of the last ${known.length} probes failed`;
  const svg = draw("svg", { class: "history", viewBox: "0 0 160 18", role: "img", "aria-label": label });
  svg.append(draw("title", {}, label));
  for (let at = 0; at < places; at += 1) {
    const sign = known[at - places + known.length];
    const kind = SIGNS[sign] ?? "none";
    const height = kind === "failed" ? 18 : kind === "passed" ? 10 : 4;
    svg.append(draw("rect", { class: kind, x: at * 4, y: 18 - height, width: 3, height, rx: 1 }));
  }
  return svg;
}

function bar(share, isFull) {
  const inner = make("i");
  inner.style.width = Math.round(100 * Math.min(1, Math.max(0, share))) + "%";
  return make("span", { class: isFull ? "bar full" : "bar", "aria-hidden": "true" }, inner);
}

function withBar(text, share, isFull = false) {
  return make("span", { class: "with-bar" }, make("span", { text }), bar(share, isFull));
}

function badge(kind, text) {
  return make("span", { class: "badge " + kind, text });
}

// Tables, whose rows are kept while what they show is there.

class Table {
  constructor(caption, columns) {
    this.columns = columns;
    this.rows = new Map();
    this.body = make("tbody", { role: "rowgroup" });
    const heads = columns.map(({ title, kind }) =>
      make("th", { scope: "col", role: "columnheader", class: kind ?? "", text: title }));
    const head = make("thead", { role: "rowgroup" }, make("tr", { role: "row" }, ...heads));
    this.element = make("table", { role: "table" },
      make("caption", { class: "unseen", text: caption }), head, this.body);
  }

  show(items) {
    const keys = new Set();
    for (const { key, cells } of items) {
      keys.add(key);
      let row = this.rows.get(key);
      if (row === undefined) {
        row = make("tr", { role: "row" });
        this.columns.forEach(({ title, kind }, at) => {
          const isHead = at === 0;
          const role = isHead ? "rowheader" : "cell";
          const cell = make(isHead ? "th" : "td", { role, class: kind ?? "", "data-label": title });
          if (isHead) cell.setAttribute("scope", "row");
          row.append(cell);
        });
        this.rows.set(key, row);
        this.body.append(row);
      }
      cells.forEach((content, at) => {
        const cell = row.children[at];
        if (typeof content === "string") setText(cell, content);
        else cell.replaceChildren(...[content].flat());
      });
    }
    for (const [key, row] of this.rows) {
      if (!keys.has(key)) {
        row.remove();
        this.rows.delete(key);
      }
    }
  }
}

function named(name, sub) {
  return [make("span", { class: "name-of", text: name }), make("span", { class: "sub", text: sub })];
}

function stacked(text, sub) {
  return [make("span", {}, make("span", { text }), make("span", { class: "sub", text: sub === "" ? "" : sub }))];
}

// The parts of the page.

const figures = new Map();

function figure(name, value, note, values) {
  let parts = figures.get(name);
  if (parts === undefined) {
    const svg = plot(values, name + " over the last minute", "");
    parts = { value: make("span", { class: "value" }), note: make("span", { class: "note" }), svg };
    byId("overview").append(
      make("li", {}, make("span", { class: "name", text: name }), parts.value, parts.note, svg));
    figures.set(name, parts);
  }
  setText(parts.value, value);
  setText(parts.note, note);
  update(parts.svg, values);
}

const sum = (items, of) => items.reduce((total, item) => total + of(item), 0);
const ofListeners = (of) => (status) => sum(status.listeners, of);

function overview(status) {
  const { open, max, waiting } = status.connections;
  const opens = samples.map((sample) => sample.connections.open);
  figure("Open connections", count(open), max > 0 ? `of ${count(max)} at most` : "", opens);
  const accepted = ofListeners((it) => it.accepted);
  const refused = ofListeners((it) => it.refused);
  const lost = perSecond(refused);
  figure("New per second", rate(perSecond(accepted)), lost > 0 ? `${rate(lost)} refused` : "none refused", steps(accepted));
  const down = ofListeners((it) => it.bytes_to_client);
  const up = ofListeners((it) => it.bytes_to_backend);
  figure("To clients", bytes(perSecond(down)) + "/s", `${bytes(down(status))} in all`, steps(down));
  figure("To backends", bytes(perSecond(up)) + "/s", `${bytes(up(status))} in all`, steps(up));
  const oldest = Math.max(0, ...status.pools.map((pool) => pool.queue.oldest_ms));
  const waits = samples.map((sample) => sample.connections.waiting);
  figure("Waiting in queues", count(waiting), waiting > 0 ? `the first for ${duration(oldest / 1e3)}` : "", waits);
}

const STATES = {
  up: ["good", "Up"],
  down: ["bad", "Down"],
  ejected: ["bad", "Ejected"],
  draining: ["warn", "Draining"],
  disabled: ["quiet", "Disabled"],
};

function stateOf(backend) {
  const [kind, text] = STATES[backend.state] ?? ["quiet", words(backend.state)];
  const since = backend.ejected_for_s != null
    ? `for ${duration(backend.ejected_for_s)} more`
    : `for ${duration(backend.since_s)}`;
  const shown = make("span", {}, badge(kind, text), make("span", { class: "sub", text: since }));
  if (backend.last_probe !== null) shown.setAttribute("title", "last probe: " + backend.last_probe.text);
  return shown;
}

const BACKENDS = [
  { title: "Backend" },
  { title: "State" },
  { title: "Probes" },
  { title: "Open", kind: "number" },
  { title: "Share of new" },
  { title: "New per second", kind: "wide" },
  { title: "Connect" },
  { title: "First byte" },
  { title: "To clients", kind: "number middling" },
  { title: "Weight", kind: "number wide" },
];

const pools = new Map();

function poolCard(pool) {
  const id = "pool-" + pools.size;
  const card = {
    title: make("h2", { id, text: pool.name }),
    about: make("span", { class: "about" }),
    panic: make("span"),
    queue: make("span", { class: "queue" }),
    table: new Table("Backends of pool " + pool.name, BACKENDS),
  };
  card.element = make("section", { class: "card", "aria-labelledby": id },
    make("header", {}, card.title, card.about, card.panic, card.queue), card.table.element);
  byId("pools").append(card.element);
  pools.set(pool.name, card);
  return card;
}

function backendRow(pool, backend, all) {
  const of = (part) => (status) => {
    const found = status.pools.find((it) => it.name === pool.name);
    const same = found?.backends.find((it) => it.name === backend.name);
    return same === undefined ? undefined : part(same);
  };
  const sessions = of((it) => it.sessions);
  const share = all > 0 ? gain(sessions) / all : 0;
  const limit = backend.max_connections;
  const busy = make("span", { class: "sub", text: backend.busy > 0 ? `${count(backend.busy)} busy` : "" });
  const open = limit > 0 ? `${count(backend.open)} / ${count(limit)}` : count(backend.open);
  const fullness = limit > 0 ? backend.open / limit : 0;
  const weight = backend.weight === backend.weight_configured
    ? String(backend.weight)
    : `${backend.weight} (set ${backend.weight_configured})`;
  return {
    key: backend.name,
    cells: [
      named(backend.name, backend.address),
      stateOf(backend),
      history(backend.recent_probes),
      [limit > 0 ? withBar(open, fullness, fullness >= 1) : make("span", { text: open }), busy],
      withBar(all > 0 ? Math.round(100 * share) + " %" : "–", share),
      plot(steps(sessions), `${rate(perSecond(sessions))} new sessions a second`),
      durations(of((it) => it.connected), "connects"),
      durations(of((it) => it.first_byte), "first bytes"),
      bytes(perSecond(of((it) => it.bytes_to_client))) + "/s",
      weight,
    ],
  };
}

function showPools(status) {
  for (const pool of status.pools) {
    const card = pools.get(pool.name) ?? poolCard(pool);
    const well = pool.backends.filter((backend) => backend.state === "up").length;
    setText(card.about, `${words(pool.balance)} · ${well} of ${pool.backends.length} up`);
    card.panic.replaceChildren(...(pool.is_in_panic ? [badge("warn", "Panic: all are used")] : []));
    const { length, limit, oldest_ms: oldest } = pool.queue;
    const first = length > 0 ? `, the first for ${duration(oldest / 1e3)}` : "";
    card.queue.replaceChildren(
      ...(limit > 0 ? ["queue ", make("b", { text: count(length) }), ` of ${count(limit)}${first}`] : ["no queue"]));
    const gains = pool.backends.map((backend) => gain((sample) =>
      sample.pools.find((it) => it.name === pool.name)?.backends
        .find((it) => it.name === backend.name)?.sessions));
    const all = gains.reduce((total, one) => total + one, 0);
    card.table.show(pool.backends.map((backend) => backendRow(pool, backend, all)));
  }
  const names = new Set(status.pools.map((pool) => pool.name));
  for (const [name, card] of pools) {
    if (!names.has(name)) {
      card.element.remove();
      pools.delete(name);
    }
  }
}

const listeners = new Table("Listeners", [
  { title: "Listener" },
  { title: "State" },
  { title: "Pool" },
  { title: "Open", kind: "number" },
  { title: "New per second", kind: "number" },
  { title: "Last minute", kind: "wide" },
  { title: "Refused", kind: "number" },
  { title: "To clients", kind: "number" },
  { title: "To backends", kind: "number" },
]);

function reasons(counts) {
  const some = Object.entries(counts).filter(([, many]) => many > 0).sort((a, b) => b[1] - a[1]);
  return some.slice(0, 3).map(([reason, many]) => `${words(reason)} ${count(many)}`).join(", ");
}

function showListeners(status) {
  listeners.show(status.listeners.map((listener) => {
    const of = (part) => (sample) => {
      const same = sample.listeners.find((it) => it.name === listener.name);
      return same === undefined ? undefined : part(same);
    };
    const accepted = of((it) => it.accepted);
    const dropped = sum(Object.values(listener.dropped), (many) => many);
    const why = [reasons(listener.refused_by), dropped > 0 ? "dropped: " + reasons(listener.dropped) : ""];
    return {
      key: listener.name,
      cells: [
        named(listener.name, `${listener.protocol} ${listener.bind.join(", ")}`),
        listener.is_accepting ? badge("good", "Accepting") : badge("warn", "Waiting"),
        listener.pool,
        count(listener.open),
        rate(perSecond(accepted)),
        plot(steps(accepted), `${rate(perSecond(accepted))} new a second`),
        stacked(count(listener.refused), why.filter((it) => it !== "").join("; ")),
        bytes(perSecond(of((it) => it.bytes_to_client))) + "/s",
        bytes(perSecond(of((it) => it.bytes_to_backend))) + "/s",
      ],
    };
  }));
}

const workers = new Table("Workers", [
  { title: "Worker" },
  { title: "Sessions", kind: "number" },
  { title: "Busy" },
  { title: "Last minute", kind: "wide" },
  { title: "Longest turns", kind: "number" },
]);

function showWorkers(status) {
  workers.show(status.workers.map((worker) => {
    const of = (part) => (sample) => {
      const same = sample.workers.find((it) => it.index === worker.index);
      return same === undefined ? undefined : part(same);
    };
    const busy = of((it) => it.busy.sum_s);
    const share = perSecond(busy);
    const longest = quantile(of((it) => it.busy), 0.999);
    return {
      key: worker.index,
      cells: [
        String(worker.index),
        count(worker.sessions),
        withBar(Math.round(100 * share) + " %", share, share > 0.9),
        plot(steps(busy), `busy for ${Math.round(100 * share)} percent of the time`, "spark", 0.1),
        longest === undefined ? "–" : "≤ " + duration(longest),
      ],
    };
  }));
}

function showProcess(status) {
  const isServing = status.state === "serving";
  const activity = byId("activity");
  activity.className = "badge " + (isServing ? "good" : "warn");
  setText(activity, isServing ? "Serving" : "Draining");
  const facts = [
    ["version", status.version],
    ["up for", duration(status.uptime_s)],
    ["generation", String(status.generation)],
    ["process", String(status.pid)],
  ];
  byId("process").replaceChildren(...facts.map(([name, value]) =>
    make("div", {}, make("dt", { text: name }), make("dd", { text: value }))));
  const { succeeded, failed, last } = status.reloads;
  const counts = `${succeeded} reloads, ${failed} failed`;
  setText(byId("reload"), last === null ? "No reload yet." : `${counts}. Last: ${last}`);
  document.title = isServing ? "Evenkeel" : "Evenkeel (draining)";
}

// Tells those who do not see the colours what has changed, and nothing else.
function tellNews(status) {
  const states = status.pools.flatMap((pool) =>
    pool.backends.map((backend) => `${backend.name} of ${pool.name}: ${words(backend.state)}`));
  const news = states.join("; ");
  if (lastNews !== "" && news !== lastNews) {
    const before = new Set(lastNews.split("; "));
    setText(byId("news"), states.filter((state) => !before.has(state)).join("; "));
  }
  lastNews = news;
}

function show(status) {
  const last = samples[samples.length - 1];
  if (last !== undefined && (last.pid !== status.pid || last.uptime_s > status.uptime_s)) {
    samples.length = 0;
  }
  samples.push(status);
  if (samples.length > SAMPLES) samples.shift();
  showProcess(status);
  overview(status);
  showPools(status);
  showListeners(status);
  showWorkers(status);
  tellNews(status);
}

function setLink(kind, text) {
  byId("link").className = "link " + kind;
  setText(byId("link"), text);
}

function listen() {
  const events = new EventSource("/events");
  events.onmessage = (event) => {
    setLink("live", "Live");
    show(JSON.parse(event.data));
  };
  events.onerror = () => {
    setLink("lost", "No news: the process does not answer, trying again");
    byId("activity").className = "badge quiet";
    setText(byId("activity"), "unknown");
    // A refusal ends it for good, and a connection that is lost does not.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, 3000);
  };
}

byId("listeners").append(listeners.element);
byId("workers").append(workers.element);
listen();
