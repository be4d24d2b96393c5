-- The page of gateway:status(), as text: its markup, its style sheet and its script.
--
-- Attributes of the markup say what of the state (status.lua) an element shows. page.lua fills them in, and so does the
-- script whenever it has fetched the state as JSON; a spec checks that both write the same. The value is that of a path
-- such as queue.queued.used; in the <template> of a list it is a field of the list's item.
--   data-v      the content; data-f: its format (text if there is none)
--   data-level  the attribute `class`: ok, warning or error
--   data-width  the attribute `width`, for a share from 0 to 1
--   data-if     without a value, or with an empty list, the element is hidden; data-unless: with one
--   data-list   the element's items are those of a list

local page_text = {}

page_text.style = [[
:root {
  color-scheme: light dark;
  --page: #f4f6f8; --card: #ffffff; --line: #d5dbe1; --text: #1f2328; --soft: #57606a; --track: #e4e8ec;
  --accent: #0a4f9e; --ok: #116329; --warning: #7d4e00; --error: #b8121f;
  --ok-back: #e3f4e6; --warning-back: #fdf1d3; --error-back: #fdeaea;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #0d1117; --card: #161b22; --line: #30363d; --text: #e6edf3; --soft: #9da7b3; --track: #2b323b;
    --accent: #79b8ff; --ok: #57d364; --warning: #e3b341; --error: #ff8d86;
    --ok-back: #12261a; --warning-back: #2b2311; --error-back: #321a1c;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--page); color: var(--text);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif;
}
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 1.5rem; }
h1, h2, p, dl, dd, ol, ul, table, figure { margin: 0; padding: 0; }
ol, ul { list-style: none; }
h1 { font-size: 1.5rem; line-height: 1.25; font-weight: 650; overflow-wrap: anywhere; }
h2 { font-size: 1rem; font-weight: 650; margin-bottom: .6rem; }
.soft, dt, th, caption, time { color: var(--soft); }
.top { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; align-items: center; justify-content: space-between; }
.bar { display: flex; flex-wrap: wrap; gap: .4rem .9rem; align-items: center; font-size: .875rem; margin-top: .5rem; }
.number { font-variant-numeric: tabular-nums; }
[data-level] { font-weight: 600; }
[data-level]::before, #live::before { font-weight: 700; margin-right: .4em; }
.ok { color: var(--ok); } .warning { color: var(--warning); } .error { color: var(--error); }
/* Screen readers skip the signs, as the texts say the same; older browsers know only the first form. */
.ok::before { content: "\2713"; content: "\2713" / ""; }
.warning::before { content: "!"; content: "!" / ""; }
.error::before { content: "\2715"; content: "\2715" / ""; }
.badge { font-size: 1.05rem; padding: .3rem .9rem; border-radius: 99px; border: 1px solid currentColor; }
.badge.ok, .note.ok { background: var(--ok-back); }
.badge.warning, .note.warning { background: var(--warning-back); }
.badge.error, .note.error { background: var(--error-back); }
.notes { margin-top: 1rem; display: grid; gap: .5rem; }
.note {
  padding: .55rem .9rem; border-radius: 8px; border-left: 4px solid currentColor; overflow-wrap: anywhere;
  font-weight: 500;
}
button {
  font: inherit; color: var(--accent); background: var(--card); border: 1px solid var(--line); border-radius: 6px;
  padding: .2rem .75rem; min-height: 2rem; cursor: pointer;
}
button:hover { border-color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.grid { display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 1rem; margin: 1.25rem 0; }
.card {
  grid-column: span 6; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 1rem 1.15rem; min-width: 0;
}
.tile { grid-column: span 3; display: flex; flex-direction: column; }
.tile h2 { font-size: .875rem; font-weight: 500; color: var(--soft); margin: 0; }
.wide { grid-column: span 12; }
.figure { font-size: 1.7rem; line-height: 1.3; font-weight: 650; font-variant-numeric: tabular-nums; }
.figure small { font-size: .95rem; font-weight: 400; color: var(--soft); }
.tile .soft { font-size: .8125rem; }
svg { display: block; width: 100%; }
.meter { height: 8px; margin: .45rem 0; border-radius: 4px; background: var(--track); }
.meter rect, .meter.ok rect { fill: var(--accent); } .meter.warning rect { fill: var(--warning); }
.meter::before { content: none; }
.chart { height: 40px; margin-top: auto; overflow: visible; }
.chart path { fill: none; stroke: var(--accent); stroke-width: 2; vector-effect: non-scaling-stroke; }
.chart .area { fill: var(--accent); stroke: none; opacity: .15; }
dl { display: grid; grid-template-columns: minmax(7.5rem, max-content) minmax(0, 1fr); gap: .35rem 1rem; }
dd { overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; }
caption { text-align: left; }
th { text-align: left; font-weight: 500; font-size: .8125rem; padding: 0 .75rem .35rem 0; white-space: nowrap; }
td { padding: .35rem .75rem .35rem 0; border-top: 1px solid var(--line); vertical-align: baseline; }
th:last-child, td:last-child { padding-right: 0; }
.right { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
td .meter { margin: 0; min-width: 2.5rem; }
td.code { white-space: nowrap; }
.above { font-size: .8125rem; margin: -.4rem 0 .6rem; }
code, .code { font: .875em/1.5 ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.changes li {
  display: grid; grid-template-columns: 17.5rem minmax(0, 1fr); gap: .1rem 1rem; padding: .45rem 0;
  border-top: 1px solid var(--line); overflow-wrap: anywhere;
}
.changes li:first-of-type { border-top: 0; padding-top: 0; }
.changes [data-level] { font-weight: 400; color: var(--text); padding-left: 1.4em; text-indent: -1.4em; }
.changes [data-level]::before { display: inline-block; width: 1.4em; margin: 0; text-indent: 0; }
.changes .ok::before { color: var(--ok); } .changes .warning::before { color: var(--warning); }
.changes .error::before { color: var(--error); }
.changes time { font-size: .8125rem; line-height: 1.85; font-variant-numeric: tabular-nums; }
.log { max-height: 24rem; overflow-y: auto; }
summary { cursor: pointer; font-weight: 650; padding: .2rem 0; }
details[open] summary { margin-bottom: .8rem; }
.options { grid-template-columns: minmax(9rem, max-content) minmax(0, 1fr); }
footer { padding-bottom: 2rem; font-size: .8125rem; }
[hidden] { display: none !important; }
@media (max-width: 60rem) { .card { grid-column: span 12; } .tile { grid-column: span 6; } }
@media (max-width: 30rem) {
  header, main, footer { padding-left: .85rem; padding-right: .85rem; }
  .grid { gap: .7rem; }
  .card { padding: .8rem .9rem; }
  .figure { font-size: 1.35rem; }
  .narrow { display: none; }
  .changes li { grid-template-columns: minmax(0, 1fr); }
  table { font-size: .875rem; }
  th, th.right { white-space: normal; vertical-align: bottom; }
  th, td { padding-right: .5rem; }
  .options { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .options dd { margin-bottom: .5rem; }
}
@media (forced-colors: active) { .meter rect { fill: Highlight; } .meter { border: 1px solid; } }
]]

page_text.script = [[
"use strict";
(() => {
  const PERIOD = 3000, LIMIT = 10000, SAMPLES = 60, MIN_SAMPLES = 10;
  const byId = (id) => document.getElementById(id);
  const round = (value, digits) => (Math.floor(value * 10 ** digits + 0.5) / 10 ** digits).toFixed(digits);
  const group = (value) => round(value, 0).replace(/\B(?=(\d{3})+$)/g, ",");
  const NONE = "\u2013";

  const formats = {
    text: (value) => String(value),
    count: group,
    title: (value) => value + " \u2013 icptoken gateway",
    share: (value) => round(value * 100, 1) + " %",
    seconds: (value) => value < 0.9995 ? round(value * 1000, 0) + " ms" : round(value, 1) + " s",
    bytes: (value) => value < 1048576 ? round(value / 1024, 1) + " KiB" : round(value / 1048576, 1) + " MiB",
    time: (value) => new Date(Math.floor(value) * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC",
    ago: (value, now) => {
      const seconds = Math.max(0, Math.floor(now - value));
      if (seconds < 60) return seconds + " s ago";
      if (seconds < 3600) return Math.floor(seconds / 60) + " min ago";
      return seconds < 86400 ? Math.floor(seconds / 3600) + " h ago" : Math.floor(seconds / 86400) + " d ago";
    },
  };

  const find = (item, path) => path.split(".").reduce((value, name) => value == null ? value : value[name], item);
  const isEmpty = (value) => value == null || value === false || Array.isArray(value) && value.length === 0;
  const show = (value, format, now) => value == null ? NONE : formats[format || "text"](value, now);

  function set(element, name, value) {
    if (element.getAttribute(name) !== value) element.setAttribute(name, value);
  }

  function fillElement(element, item, now) {
    const { v, f, level, width, if: condition, unless } = element.dataset;
    if (v) {
      const text = show(find(item, v), f, now);
      if (element.textContent !== text) element.textContent = text;
    }
    if (level) {
      const own = (element.getAttribute("class") || "").replace(/ ?\b(ok|warning|error)\b/, "");
      set(element, "class", (own + " " + find(item, level)).trim());
    }
    if (width) set(element, "width", round((find(item, width) || 0) * 100, 1) + "%");
    if (condition) element.hidden = isEmpty(find(item, condition));
    if (unless) element.hidden = !isEmpty(find(item, unless));
  }

  const FILLED = "[data-v], [data-level], [data-width], [data-if], [data-unless]";

  function fillList(list, items, now) {
    const template = list.querySelector("template");
    const rows = [...list.children].filter((child) => child !== template);
    items.forEach((item, i) => {
      const row = rows[i] || list.appendChild(template.content.firstElementChild.cloneNode(true));
      for (const element of [row, ...row.querySelectorAll(FILLED)]) fillElement(element, item, now);
    });
    rows.slice(items.length).forEach((row) => row.remove());
  }

  function fill(state) {
    for (const element of document.querySelectorAll(FILLED)) {
      if (!element.closest("[data-list] > :not(template)")) fillElement(element, state, state.time);
    }
    for (const list of document.querySelectorAll("[data-list]")) {
      fillList(list, find(state, list.dataset.list) || [], state.time);
    }
  }

  const rates = [];
  let last = null;

  function drawRate(state) {
    const total = state.requests.total;
    if (last && state.time > last.time && total >= last.total) {
      rates.push((total - last.total) / (state.time - last.time));
      if (rates.length > SAMPLES) rates.shift();
    }
    last = { total, time: state.time };
    if (!rates.length) return;
    const top = Math.max(1, ...rates);
    const count = Math.max(MIN_SAMPLES, rates.length);
    const points = rates.map((rate, i) =>
      round((count - rates.length + i) * 100 / (count - 1), 1) + "," + round(38 - 36 * rate / top, 1));
    const line = "M" + points.join("L");
    byId("line").setAttribute("d", line);
    byId("area").setAttribute("d", line + "V40H" + points[0].split(",")[0] + "Z");
    const rate = rates[rates.length - 1];
    byId("rate").textContent = rate < 10 ? round(rate, 1) : group(rate);
    byId("rates").hidden = false;
    byId("totals").hidden = true;
  }

  const live = byId("live"), pause = byId("pause");
  let isPaused = false, timer = 0, problem = "";

  function tell(text) {
    if (live.textContent !== text) live.textContent = text;
  }

  async function update() {
    try {
      const answer = await fetch(location.href, {
        headers: { Accept: "application/json" }, cache: "no-store", signal: AbortSignal.timeout(LIMIT),
      });
      if (!answer.ok) throw new Error("status " + answer.status);
      const state = await answer.json();
      if (isPaused) return;
      fill(state);
      drawRate(state);
      problem = "";
    } catch (error) {
      problem = "No answer from nginx: the figures are those of the time above. Trying again.";
    }
    live.classList.toggle("error", problem !== "");
    tell(problem || "Live, every 3 seconds");
  }

  async function run() {
    clearTimeout(timer);
    if (!document.hidden) await update();
    if (!isPaused && !document.hidden) timer = setTimeout(run, PERIOD);
  }

  pause.addEventListener("click", () => {
    isPaused = !isPaused;
    pause.textContent = isPaused ? "Resume updates" : "Pause updates";
    clearTimeout(timer);
    if (isPaused) { tell("Paused"); live.classList.remove("error"); } else { run(); }
  });
  document.addEventListener("visibilitychange", () => { if (!isPaused) run(); });
  pause.hidden = false;
  tell("Live, every 3 seconds");
  timer = setTimeout(run, PERIOD);
})();
]]

page_text.markup = [[
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<noscript><meta http-equiv="refresh" content="10"></noscript>
<title data-v="summary" data-f="title"></title>
<style>@STYLE@</style>
</head>
<body>
<header>
  <div class="top">
    <div>
      <p class="soft">icptoken gateway</p>
      <h1 data-v="name"></h1>
    </div>
    <p class="badge" role="status" data-level="level" data-v="summary"></p>
  </div>
  <div class="bar">
    <span class="soft">As of <time class="number" id="time" data-v="time" data-f="time"></time></span>
    <span class="soft" id="live" role="status"></span>
    <button type="button" id="pause" hidden>Pause updates</button>
    <noscript><span class="soft">This page loads again every 10 seconds.</span></noscript>
  </div>
  <ul class="notes" data-list="problems" data-if="problems" aria-label="What calls for attention"><template>
    <li class="note" data-level="level" data-v="text"></li></template></ul>
</header>
<main>
<div class="grid">
  <section class="card tile" aria-labelledby="h-requests">
    <h2 id="h-requests">Requests</h2>
    <p class="figure" id="totals"><span data-v="requests.total" data-f="count"></span>
      <small>in total</small></p>
    <p class="figure" id="rates" hidden><span id="rate"></span> <small>per second</small></p>
    <svg class="chart" viewBox="0 0 100 40" preserveAspectRatio="none" aria-hidden="true">
      <path class="area" id="area"/><path id="line"/></svg>
  </section>
  <section class="card tile" aria-labelledby="h-hits">
    <h2 id="h-hits">Answered from the cache</h2>
    <p class="figure" data-v="cache.hit_ratio" data-f="share"></p>
    <svg class="meter" aria-hidden="true"><rect height="100%" rx="4" data-width="cache.hit_ratio"/></svg>
    <p class="soft">of the requests that had a token</p>
  </section>
  <section class="card tile" aria-labelledby="h-inflight">
    <h2 id="h-inflight">Token requests in progress</h2>
    <p class="figure"><span data-v="queue.inflight.used" data-f="count"></span>
      <small>of <span data-v="queue.inflight.limit" data-f="count"></span></small></p>
    <svg class="meter" data-level="queue.inflight.level" aria-hidden="true">
      <rect height="100%" rx="4" data-width="queue.inflight.share"/></svg>
    <p class="soft">max_inflight of all workers</p>
  </section>
  <section class="card tile" aria-labelledby="h-queued">
    <h2 id="h-queued">Waiting in the queue</h2>
    <p class="figure"><span data-v="queue.queued.used" data-f="count"></span>
      <small>of <span data-v="queue.queued.limit" data-f="count"></span></small></p>
    <svg class="meter" data-level="queue.queued.level" aria-hidden="true">
      <rect height="100%" rx="4" data-width="queue.queued.share"/></svg>
    <p class="soft">max_queue of all workers</p>
  </section>

  <section class="card" aria-labelledby="h-endpoint">
    <h2 id="h-endpoint">Token endpoint</h2>
    <dl>
      <dt>State</dt><dd><span data-level="endpoint.level" data-v="endpoint.summary"></span></dd>
      <dt data-if="endpoint.since">Since</dt>
      <dd data-if="endpoint.since"><span data-v="endpoint.since" data-f="time"></span>,
        <span data-v="endpoint.since" data-f="ago"></span></dd>
      <dt>URL</dt><dd class="code" data-v="endpoint.url"></dd>
      <dt>Requests to it</dt><dd><span data-v="endpoint.fetches" data-f="count"></span>,
        <span data-v="endpoint.failures" data-f="count"></span> of them failed</dd>
      <dt>Time for one</dt><dd>about <span data-v="endpoint.median_seconds" data-f="seconds"></span> (median),
        <span data-v="endpoint.p99_seconds" data-f="seconds"></span> (99 %)</dd>
      <dt data-if="endpoint.last_answer">Last answer</dt>
      <dd data-if="endpoint.last_answer"><span data-v="endpoint.last_answer" data-f="time"></span>,
        <span data-v="endpoint.last_answer" data-f="ago"></span></dd>
      <dt data-if="endpoint.certificate_expiry">Certificate</dt>
      <dd data-if="endpoint.certificate_expiry">expires <span data-v="endpoint.certificate_expiry"
        data-f="time"></span></dd>
      <dt>Renewals</dt><dd data-v="endpoint.renewals"></dd>
      <dt data-if="identity_provider">Logins</dt>
      <dd data-if="identity_provider"><span data-level="identity_provider.level"
        data-v="identity_provider.summary"></span></dd>
    </dl>
  </section>
  <section class="card" aria-labelledby="h-cache">
    <h2 id="h-cache">Cache</h2>
    <dl>
      <dt>Memory in use</dt>
      <dd><span data-v="cache.used_bytes" data-f="bytes"></span> of <span data-v="cache.bytes" data-f="bytes"></span>
        <svg class="meter" aria-hidden="true"><rect height="100%" rx="4" data-width="cache.used_share"/></svg></dd>
      <dt>Evicted</dt><dd><span data-v="cache.evictions" data-f="count"></span> before they had expired</dd>
      <dt>Dropped</dt><dd><span data-v="cache.dropped" data-f="count"></span> that the registry rejected</dd>
    </dl>
  </section>

  <section class="card" aria-labelledby="h-results">
    <h2 id="h-results">Results of requests</h2>
    <p class="soft above" data-if="requests.results">since <span data-v="counting_since" data-f="time"></span></p>
    <table data-if="requests.results">
      <thead><tr><th scope="col">Result</th><th scope="col" class="right">Requests</th>
        <th scope="col" class="right">Share</th><th aria-hidden="true"></th></tr></thead>
      <tbody data-list="requests.results"><template>
        <tr><td class="code" data-v="result"></td><td class="right" data-v="count" data-f="count"></td>
          <td class="right" data-v="share" data-f="share"></td>
          <td aria-hidden="true"><svg class="meter"><rect height="100%" rx="4" data-width="share"/></svg></td></tr>
      </template></tbody>
    </table>
    <p class="soft" data-unless="requests.results">No request so far.</p>
  </section>
  <section class="card" aria-labelledby="h-workers">
    <h2 id="h-workers">Workers</h2>
    <div class="scroll" tabindex="0" role="region" aria-labelledby="h-workers">
    <table>
      <thead><tr><th scope="col">State</th><th scope="col" class="right">Process</th>
        <th scope="col" class="narrow">Started</th>
        <th scope="col" class="right">Requests</th><th scope="col" class="right">In progress</th>
        <th scope="col" class="right">Queued</th></tr></thead>
      <tbody data-list="workers"><template>
        <tr><td><span data-level="level" data-v="summary"></span></td><td class="right" data-v="pid"></td>
          <td class="narrow" data-v="started_at" data-f="ago"></td>
          <td class="right" data-v="requests" data-f="count"></td>
          <td class="right" data-v="inflight" data-f="count"></td>
          <td class="right" data-v="queued" data-f="count"></td></tr>
      </template></tbody>
    </table>
    </div>
  </section>

  <section class="card wide" aria-labelledby="h-fleet" data-if="fleet">
    <h2 id="h-fleet">Fleet</h2>
    <dl>
      <dt>State</dt><dd><span data-level="fleet.level" data-v="fleet.summary"></span></dd>
      <dt data-if="fleet.since">Since</dt>
      <dd data-if="fleet.since"><span data-v="fleet.since" data-f="time"></span>,
        <span data-v="fleet.since" data-f="ago"></span></dd>
      <dt>Redis</dt><dd class="code" data-v="fleet.redis"></dd>
      <dt>Tokens</dt><dd><span data-v="fleet.tokens" data-f="count"></span> that other gateways requested</dd>
      <dt>Leases</dt><dd><span data-v="fleet.leases" data-f="count"></span> to make a request for the fleet,
        <span data-v="fleet.alone" data-f="count"></span> requests without one, as another gateway took too long</dd>
    </dl>
  </section>
  <section class="card wide" aria-labelledby="h-changes">
    <h2 id="h-changes">Recent changes</h2>
    <ol class="changes log" data-list="changes" tabindex="0" aria-labelledby="h-changes"><template>
      <li><time><span data-v="time" data-f="time"></span>, <span data-v="time" data-f="ago"></span></time>
        <span data-level="level" data-v="text"></span></li></template></ol>
  </section>
  <section class="card wide" aria-label="Configuration">
    <details>
      <summary>Configuration</summary>
      <dl class="options" data-list="configuration"><template>
        <div><dt class="code" data-v="name"></dt><dd class="code" data-v="value"></dd></div></template></dl>
    </details>
  </section>
</div>
</main>
<footer class="soft">icptoken <span data-v="software.icptoken"></span>, nginx <span data-v="software.nginx"></span>,
  ngx_lua <span data-v="software.ngx_lua"></span>. Figures are of all workers, and counted since nginx started. For
  programs: the same with <code>Accept: application/json</code>.</footer>
<script>@SCRIPT@</script>
</body>
</html>
]]

return page_text
