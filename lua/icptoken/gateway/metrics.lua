-- What a gateway counts, in rows that all workers share (rows.lua), and the text for Prometheus: in its own text format
-- (https://prometheus.io/docs/instrumenting/exposition_formats/), or as OpenMetrics 1.0.
--
-- Counters and histograms add up over all rows. A gauge adds up over the workers that are running. A reading is not
-- counted, but computed when the metrics are rendered (readings.lua).
--
-- A scrape has to be cheap, also for a worker that is scraped so seldom that none of this is in the processor's caches.
-- So a text is made again only if its numbers have changed since the last scrape, and is never older than these.

local clock = require "icptoken.gateway.clock"
local ffi = require "ffi"
local rows = require "icptoken.gateway.rows"

ffi.cdef [[int icptoken_compare_bytes(const void *, const void *, size_t) __asm__("memcmp");]]

local C, floor = ffi.C, math.floor
local CELL_BYTES = ffi.sizeof "double"

local metrics = {}
local metrics_methods = {}
local metrics_meta = { __index = metrics_methods }

--- The formats, by name: the content type of each.
metrics.CONTENT_TYPES = {
  text = "text/plain; version=0.0.4; charset=utf-8",
  openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8",
}

-- Upper bounds of buckets, in seconds.
local DURATIONS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }
local LIFETIMES = { 1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600 }

-- The age of tokens is noted for each period of AGE_SECONDS. The period in which the machine starts has the number
-- FIRST_AGE_PERIOD: a row in which nothing has been noted has the number 0, which must belong neither to the current
-- period nor to the one before.
local AGE_SECONDS, FIRST_AGE_PERIOD = 60, 2

local ENDPOINTS = { "token", "login" }

-- kind: counter, gauge, histogram (all three are counted), worker (the gauge `of`, of each worker), info (a
-- reading), or reading (a gauge). labels: each with its values, or true for those that new() gets. Names are without
-- the suffix of their kind.
local FAMILIES = {
  { name = "build", metric = "icptoken_build", kind = "info", help = "Versions. Always 1." },
  { name = "start_time", metric = "icptoken_start_time_seconds", kind = "reading",
    help = "When nginx read its configuration, in seconds since 1970." },
  { name = "workers", metric = "icptoken_workers", kind = "reading",
    help = "Worker processes that nginx should have." },
  { name = "started", metric = "icptoken_workers_started", kind = "gauge", is_of_configuration = true,
    help = "Worker processes in which the gateway has started and has threads." },
  { name = "requests", metric = "icptoken_requests", kind = "counter", labels = { { "result", true } },
    help = "Requests that needed a token, by result." },
  { name = "fetches", metric = "icptoken_fetches", kind = "counter", labels = { { "code", true } },
    help = "Token requests and logins at the endpoint, each attempt, by result." },
  { name = "fetch_seconds", metric = "icptoken_fetch_seconds", kind = "histogram", bounds = DURATIONS,
    help = "Duration of token requests to the endpoint." },
  { name = "hedges", metric = "icptoken_hedges", kind = "counter",
    help = "Further attempts that were started beside an unanswered one." },
  { name = "fetch_results", metric = "icptoken_fetch_results", kind = "counter",
    labels = { { "class", { "known", "unknown", "renewal" } },
      { "result", { "ok", "refused", "failed", "overloaded", "client_gone" } } },
    help = "Keys for which a token request or a login was queued, by class and result." },
  { name = "wait_seconds", metric = "icptoken_wait_seconds", kind = "histogram", bounds = DURATIONS,
    help = "Time that requests waited for a token that was not cached." },
  { name = "stale_seconds", metric = "icptoken_stale_remaining_seconds", kind = "histogram", bounds = LIFETIMES,
    help = "Time until expiry of tokens that were served although their renewal had failed." },
  { name = "oldest_age", metric = "icptoken_oldest_token_age_seconds", kind = "reading",
    help = "Age of the oldest token that was served in the last minute, or 0." },
  { name = "inflight", metric = "icptoken_inflight", kind = "gauge",
    help = "Token requests to the endpoint in progress." },
  { name = "inflight_limit", metric = "icptoken_inflight_limit", kind = "reading",
    help = "The most token requests that can be in progress." },
  { name = "queued", metric = "icptoken_queued", kind = "gauge",
    help = "Keys whose token request waits in the queue." },
  { name = "queue_limit", metric = "icptoken_queue_limit", kind = "reading",
    help = "The most keys that can wait in the queue." },
  { name = "worker_inflight", metric = "icptoken_worker_inflight", kind = "worker", of = "inflight",
    help = "Token requests in progress, by worker." },
  { name = "worker_queued", metric = "icptoken_worker_queued", kind = "worker", of = "queued",
    help = "Keys in the queue, by worker." },
  { name = "shortages", metric = "icptoken_shortages", kind = "counter",
    labels = { { "resource", { "thread", "lua_state" } } },
    help = "Token requests that had to wait because a worker has too few threads or Lua states." },
  { name = "endpoint_up", metric = "icptoken_endpoint_up", kind = "reading",
    help = "0 if the last token request or login failed because the endpoint does not work, else 1." },
  { name = "endpoint_results", metric = "icptoken_endpoint_results", kind = "counter",
    labels = { { "endpoint", ENDPOINTS }, { "result", { "ok", "failed" } } },
    help = "Token requests and logins after all their attempts, by whether the endpoint works." },
  { name = "last_answer", metric = "icptoken_endpoint_last_answer_timestamp_seconds", kind = "reading",
    help = "When the endpoint last worked, in seconds since 1970; 0 if it never has." },
  { name = "endpoint_paused", metric = "icptoken_endpoint_paused", kind = "reading",
    help = "1 while renewals are paused because the endpoint fails, else 0." },
  { name = "certificate_expiry", metric = "icptoken_certificate_expiry_timestamp_seconds", kind = "reading",
    help = "When a certificate expires, in seconds since 1970." },
  { name = "rejected", metric = "icptoken_rejected", kind = "counter",
    labels = { { "reason", { "invalid_token", "insufficient_scope" } }, { "age", { "new", "old" } } },
    help = "Tokens that the registry rejected, by its reason and by whether they had just been issued." },
  { name = "dropped", metric = "icptoken_dropped", kind = "counter",
    help = "Cached tokens that were dropped because the registry rejected them." },
  { name = "evictions", metric = "icptoken_evictions", kind = "counter",
    help = "Writes to the dict that evicted a record that had not expired." },
  { name = "shared", metric = "icptoken_fleet", kind = "counter", labels = { { "result", true } }, is_optional = true,
    help = "Keys whose token request was due, by what the gateway found in the fleet's Redis." },
  { name = "shared_invalid", metric = "icptoken_fleet_invalid", kind = "counter", labels = { { "reason", true } },
    is_optional = true, help = "Records of the fleet in Redis that were not used, by reason." },
  { name = "redis", metric = "icptoken_redis_exchanges", kind = "counter", labels = { { "result", true } },
    is_optional = true, help = "Exchanges with the fleet's Redis, by result." },
  { name = "redis_available", metric = "icptoken_redis_available", kind = "reading", is_optional = true,
    help = "1 while the fleet's Redis is used, 0 while it is not because it fails." },
  { name = "dict_free", metric = "icptoken_dict_free_bytes", kind = "reading",
    help = "Free pages of the lua_shared_dict." },
  { name = "dict_size", metric = "icptoken_dict_bytes", kind = "reading", help = "Size of the lua_shared_dict." },
}

-- Cells that are no metrics themselves: of the tokens served in this unit of time and the one before, the earliest time
-- at which one was stored; until when the last token of this worker is valid; when each endpoint last worked; and the
-- certificates on the last connection to the endpoint; when the row's worker began, and the requests in the row until
-- then. The first four are on clock.now(), the other times since 1970.
local OTHER_CELLS = { "age_period", "oldest", "oldest_before", "tokens_until", "last_token_answer", "last_login_answer",
  "chain_expiry", "chain_seen", "began_at", "requests_before" }

local ESCAPES = { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }

local function write_label(name, value)
  return ('%s="%s"'):format(name, (value:gsub('[\\"\n]', ESCAPES)))
end

-- Returns the combinations of the values of labels: a list of { key (the values separated by commas), text }.
local function combine(labels, first)
  if not labels or first > #labels then return { { key = "", text = "" } } end
  local name, values = labels[first][1], labels[first][2]
  local combined, others = {}, combine(labels, first + 1)
  for _, value in ipairs(values) do
    for _, other in ipairs(others) do
      local divider = other.key == "" and "" or ","
      combined[#combined + 1] = { key = value .. divider .. other.key,
        text = write_label(name, value) .. divider .. other.text }
    end
  end
  return combined
end

-- Returns the labels of a family, with the values that new() got.
local function fill_labels(family, values)
  local labels = {}
  for i, label in ipairs(family.labels or {}) do
    labels[i] = { label[1], label[2] == true and (values[family.name] or {}) or label[2] }
  end
  return labels
end

-- Returns the cells of each family (those of a family are `count` cells from `first` on), the number of cells, and a
-- text that tells this layout from others.
local function lay_out(values)
  local cells, width, parts = {}, 0, {}
  for _, family in ipairs(FAMILIES) do
    local cell = { first = width }
    if family.kind == "histogram" then
      width = width + #family.bounds + 2
      parts[#parts + 1] = family.name .. " " .. table.concat(family.bounds, " ")
    elseif family.kind == "counter" or family.kind == "gauge" then
      cell.samples, cell.index = combine(fill_labels(family, values), 1), {}
      for _, sample in ipairs(cell.samples) do
        cell.index[sample.key] = width
        width = width + 1
        parts[#parts + 1] = family.name .. " " .. sample.key
      end
    end
    cell.count = width - cell.first
    cells[family.name] = cell
  end
  for _, name in ipairs(OTHER_CELLS) do
    cells[name], width = width, width + 1
  end
  return cells, width, table.concat(parts, "\n") .. table.concat(OTHER_CELLS, "\n")
end

-- Returns the sum of all results in a row.
local function count_requests(self, row)
  local sum = 0
  for _, cell in pairs(self.cells.requests.index) do sum = sum + row[cell] end
  return sum
end

--- Uses the row of this worker (ngx.worker.id()) from now on. Its gauges start from 0, as a worker with the same id may
-- have crashed. Returns the pid of that one.
function metrics_methods:open_row(worker)
  local is_own, pid_before = self.rows:take(worker)
  self.row = self.rows.own
  if not is_own then return end
  self.row[self.cells.began_at], self.row[self.cells.requests_before] = clock.wall(), count_requests(self, self.row)
  for _, family in ipairs(FAMILIES) do
    if family.kind == "gauge" then self.row[self.cells[family.name].first] = 0 end
  end
  return pid_before
end

--- Adds one, or an amount, to a counter or gauge. label: the value of its label; with several labels, their values
-- separated by commas.
function metrics_methods:add(name, label, amount)
  local cell = self.cells[name].index[label or ""]
  self.row[cell] = self.row[cell] + (amount or 1)
end

--- Adds one to the requests with a result. (The same as add("requests", result), but with fewer lookups.)
function metrics_methods:count_request(result)
  local cell = self.request_cells[result]
  self.row[cell] = self.row[cell] + 1
end

--- Adds a time, in seconds, to a histogram.
function metrics_methods:observe(name, seconds)
  local first = self.cells[name].first
  local bounds = name == "stale_seconds" and LIFETIMES or DURATIONS
  local bucket = 0
  while bucket < #bounds and seconds > bounds[bucket + 1] do bucket = bucket + 1 end
  local sum = first + #bounds + 1
  self.row[first + bucket] = self.row[first + bucket] + 1
  self.row[sum] = self.row[sum] + seconds
end

local function get_age_period(time)
  return floor(time / AGE_SECONDS) + FIRST_AGE_PERIOD
end

--- Notes that a token is served which was stored at a time on clock.now(). time: now, on the same clock.
function metrics_methods:note_age(stored_at, time)
  local row, cells = self.row, self.cells
  local period = get_age_period(time)
  if row[cells.age_period] ~= period then
    row[cells.oldest_before] = row[cells.age_period] == period - 1 and row[cells.oldest] or math.huge
    row[cells.oldest], row[cells.age_period] = math.huge, period
  end
  if stored_at < row[cells.oldest] then row[cells.oldest] = stored_at end
end

--- Notes that a token was stored that is valid until a time on clock.now().
function metrics_methods:note_expiry(expires_at)
  local cell = self.cells.tokens_until
  if expires_at > self.row[cell] then self.row[cell] = expires_at end
end

--- Notes whether an endpoint, "token" or "login", works.
function metrics_methods:note_endpoint(name, is_working)
  self:add("endpoint_results", name .. (is_working and ",ok" or ",failed"))
  if is_working then self.row[self.cells["last_" .. name .. "_answer"]] = clock.wall() end
end

--- Notes when the first of the endpoint's certificates expires, in seconds since 1970.
function metrics_methods:note_certificate(expires_at)
  self.row[self.cells.chain_expiry], self.row[self.cells.chain_seen] = expires_at, clock.wall()
end

-- Returns the greatest number in a cell of all rows.
local function find_greatest(self, cell)
  local greatest = 0
  for _, row in self.rows:each() do greatest = math.max(greatest, row[cell]) end
  return greatest
end

--- Returns when an endpoint, "token" or "login", last worked, in seconds since 1970; 0 if it never has.
function metrics_methods:get_last_answer(name)
  return find_greatest(self, self.cells["last_" .. name .. "_answer"])
end

--- Returns until when, on clock.now(), the last of the tokens is valid that workers have stored.
function metrics_methods:get_tokens_until()
  return find_greatest(self, self.cells.tokens_until)
end

--- Returns when the first of the endpoint's certificates expires, in seconds since 1970, or nil if it is unknown.
-- Workers may have seen different ones: of those seen within `seconds` before the last one, the first to expire counts.
function metrics_methods:get_certificate_expiry(seconds)
  local seen_cell, expiry_cell = self.cells.chain_seen, self.cells.chain_expiry
  local last_seen, earliest = find_greatest(self, seen_cell), math.huge
  for _, row in self.rows:each() do
    if row[expiry_cell] > 0 and row[seen_cell] >= last_seen - seconds then
      earliest = math.min(earliest, row[expiry_cell])
    end
  end
  return earliest < math.huge and earliest or nil
end

--- Returns the age of the oldest token that was served in this minute or the last one, or 0.
function metrics_methods:get_oldest_age()
  local cells, oldest = self.cells, math.huge
  local period = get_age_period(clock.now())
  for _, row in self.rows:each() do
    local last_period = row[cells.age_period]
    if last_period == period then oldest = math.min(oldest, row[cells.oldest], row[cells.oldest_before]) end
    if last_period == period - 1 then oldest = math.min(oldest, row[cells.oldest]) end
  end
  return oldest < math.huge and math.max(0, clock.now() - oldest) or 0
end

-- running: what rows:list_running returns.
local function sum_gauge(running, family, cell)
  local sum = 0
  for _, row in ipairs(running) do
    if row.is_current or not family.is_of_configuration then sum = sum + row.cells[cell] end
  end
  return sum
end

local function total(self, family, cell)
  if family.kind ~= "gauge" then return self.rows:total(cell) end
  return sum_gauge(self.rows:list_running(), family, cell)
end

--- Returns the value of a counter or gauge. label: as for add.
function metrics_methods:get(name, label)
  for _, family in ipairs(FAMILIES) do
    if family.name == name then return total(self, family, self.cells[name].index[label or ""]) end
  end
end

--- Returns the values of a counter that has one label, by that of the label, and their sum.
function metrics_methods:get_all(name)
  local values, sum = {}, 0
  for label, cell in pairs(self.cells[name].index) do
    values[label] = self.rows:total(cell)
    sum = sum + values[label]
  end
  return values, sum
end

--- Estimates the seconds within which this share (0 to 1) of the times of fetch_seconds or wait_seconds were, as
-- Prometheus does: those of a bucket count as spread evenly, and those beyond the last bound as equal to it. Returns
-- nil if there are none.
function metrics_methods:estimate_quantile(name, share)
  local first, counts, count = self.cells[name].first, {}, 0
  for i = 0, #DURATIONS do
    counts[i + 1] = self.rows:total(first + i)
    count = count + counts[i + 1]
  end
  if count == 0 then return nil end
  local rank, below = share * count, 0
  for i, bound in ipairs(DURATIONS) do
    if below + counts[i] >= rank and counts[i] > 0 then
      local lower = DURATIONS[i - 1] or 0
      return lower + (bound - lower) * (rank - below) / counts[i]
    end
    below = below + counts[i]
  end
  return DURATIONS[#DURATIONS]
end

--- Returns the workers that are running, each { worker (its id), pid, is_current (of this process's configuration),
-- began_at (seconds since 1970), requests, inflight, queued }.
function metrics_methods:list_workers()
  local workers, cells = {}, self.cells
  for i, row in ipairs(self.rows:list_running()) do
    workers[i] = { worker = row.worker, pid = row.pid, is_current = row.is_current,
      began_at = row.cells[cells.began_at],
      requests = count_requests(self, row.cells) - row.cells[cells.requests_before],
      inflight = row.cells[cells.inflight.first], queued = row.cells[cells.queued.first] }
  end
  return workers
end

-- Returns a number as it is written in both formats.
local function write_number(value)
  return value % 1 == 0 and math.abs(value) < 1e14 and ("%d"):format(value) or ("%.17g"):format(value)
end

-- Returns a line without its number. more: labels as text.
local function new_line(name, gateway, more)
  return { beginning = ("%s{%s%s%s} "):format(name, gateway, more == "" and "" or ",", more), value = nil, text = nil }
end

-- Adds a line with its number. Its text is kept, as most numbers are the same in the next scrape.
local function add_line(texts, line, value)
  if line.value ~= value then line.value, line.text = value, line.beginning .. write_number(value) .. "\n" end
  texts[#texts + 1] = line.text
end

-- OpenMetrics requires this form of numbers in the label, and Prometheus 3 uses it for both formats.
local function write_bound(bound)
  if not bound then return "+Inf" end
  return bound % 1 == 0 and ("%.1f"):format(bound) or ("%.14g"):format(bound)
end

-- Prepares the lines of what is counted.
local function prepare_lines(cells, gateway, workers)
  for _, family in ipairs(FAMILIES) do
    local cell = cells[family.name]
    local suffix = family.kind == "counter" and "_total" or ""
    for _, sample in ipairs(cell.samples or {}) do
      sample.line = new_line(family.metric .. suffix, gateway, sample.text)
    end
    if family.kind == "histogram" then
      cell.buckets = {}
      for i = 0, #family.bounds do
        local label = write_label("le", write_bound(family.bounds[i + 1]))
        cell.buckets[i] = new_line(family.metric .. "_bucket", gateway, label)
      end
      cell.sum_line = new_line(family.metric .. "_sum", gateway, "")
      cell.count_line = new_line(family.metric .. "_count", gateway, "")
    end
    if family.kind == "worker" then
      cell.lines = {}
      for i = 1, workers do
        cell.lines[i] = new_line(family.metric, gateway, write_label("worker", ("%d"):format(i - 1)))
      end
    end
  end
end

-- Returns the numbers of all cells: the sums over all rows, or over the running workers. The next call changes them.
-- running: what rows:list_running returns.
local function sum_all(self, running)
  local sums = self.rows:sum()
  for _, family in ipairs(FAMILIES) do
    if family.kind == "gauge" then
      local cell = self.cells[family.name].first
      sums[cell] = sum_gauge(running, family, cell)
    end
  end
  return sums
end

-- Functions that add the lines of a counted family to a list of texts. sums: what sum_all returned.
local add_lines = {}

function add_lines.histogram(texts, cell, family, sums)
  local count, bounds = 0, family.bounds
  for i = 0, #bounds do
    count = count + sums[cell.first + i]
    add_line(texts, cell.buckets[i], count)
  end
  add_line(texts, cell.sum_line, sums[cell.first + #bounds + 1])
  add_line(texts, cell.count_line, count)
end

function add_lines.counter(texts, cell, _, sums)
  for _, sample in ipairs(cell.samples) do add_line(texts, sample.line, sums[cell.index[sample.key]]) end
end

add_lines.gauge = add_lines.counter

-- Functions that add the samples of a family to a list of texts. one: what is known of a gateway { counters, readings,
-- sums, running }.
local add_samples = {}

local function add_counted(texts, one, family)
  local self, sums = one.counters, one.sums
  local cell = self.cells[family.name]
  if cell.count == 0 then return end
  local written, bytes = self.written + cell.first, cell.count * CELL_BYTES
  if not cell.text or C.icptoken_compare_bytes(written, sums + cell.first, bytes) ~= 0 then
    local lines = {}
    add_lines[family.kind](lines, cell, family, sums)
    cell.text = table.concat(lines)
    ffi.copy(written, sums + cell.first, bytes)
  end
  texts[#texts + 1] = cell.text
end

add_samples.histogram, add_samples.counter, add_samples.gauge = add_counted, add_counted, add_counted

-- What the running processes of each worker have, of all configurations.
function add_samples.worker(texts, one, family)
  local self = one.counters
  local cell, lines = self.cells[family.of].first, self.cells[family.name].lines
  for worker = 0, self.workers - 1 do
    local sum = 0
    for _, row in ipairs(one.running) do
      if row.worker == worker then sum = sum + row.cells[cell] end
    end
    add_line(texts, lines[worker + 1], sum)
  end
end

-- labels: { name, value, … }
local function write_labels(labels)
  local texts = {}
  for i = 1, #labels, 2 do texts[#texts + 1] = write_label(labels[i], labels[i + 1]) end
  return table.concat(texts, ",")
end

local function add_reading(texts, self, name, reading)
  if type(reading) == "number" then
    local line = self.reading_lines[name]
    if not line then
      line = new_line(name, self.gateway_label, "")
      self.reading_lines[name] = line
    end
    return add_line(texts, line, reading)
  end
  if not reading then return end
  for _, sample in ipairs(reading) do
    if not sample.line then sample.line = new_line(name, self.gateway_label, write_labels(sample.labels)) end
    if sample.value then add_line(texts, sample.line, sample.value) end
  end
end

function add_samples.reading(texts, one, family)
  add_reading(texts, one.counters, family.metric, one.readings[family.name])
end

function add_samples.info(texts, one, family)
  add_reading(texts, one.counters, family.metric .. "_info", one.readings[family.name])
end

-- The type of each kind of family, and the suffix that its name has in the text format only.
local TYPES = {
  text = { counter = { "counter", "_total" }, gauge = { "gauge", "" }, worker = { "gauge", "" },
    reading = { "gauge", "" }, histogram = { "histogram", "" }, info = { "gauge", "_info" } },
  openmetrics = { counter = { "counter", "" }, gauge = { "gauge", "" }, worker = { "gauge", "" },
    reading = { "gauge", "" }, histogram = { "histogram", "" }, info = { "info", "" } },
}

-- By format, and by the name of a family: the lines before its samples.
local HEADS = {}

for format, types in pairs(TYPES) do
  HEADS[format] = {}
  for _, family in ipairs(FAMILIES) do
    local kind, suffix = unpack(types[family.kind])
    HEADS[format][family.name] = ("# HELP %s%s %s\n# TYPE %s%s %s\n"):format(family.metric, suffix, family.help,
      family.metric, suffix, kind)
  end
end

--- Returns the metrics of a gateway. To be called before nginx starts its workers. workers: how many there are. values:
-- by the name of a family, the list of its label's values. Raises if there is no memory.
function metrics.new(gateway_name, workers, values)
  local cells, width, layout = lay_out(values)
  local shared = rows.open(gateway_name, workers, layout, width)
  local gateway_label = write_label("gateway", gateway_name)
  prepare_lines(cells, gateway_label, workers)
  return setmetatable({ gateway_name = gateway_name, gateway_label = gateway_label, workers = workers, cells = cells,
    request_cells = cells.requests.index, rows = shared, row = shared.own, reading_lines = {},
    written = ffi.new("double[?]", width) }, metrics_meta) -- written: the numbers in the texts of counted families
end

--- Returns the metrics of several gateways as a list of texts that follow one another. all: of each gateway { counters
-- (from metrics.new), readings }, which gets more fields.
-- readings: by the name of a family, its number, or a list of { labels = { name, value, … }, value = }, or nil if it is
-- unknown. A value may be nil, too. A sample gets the field `line`, and is cheaper if it is passed again in the next
-- scrape. format: "text" or "openmetrics".
function metrics.render(all, format)
  local texts = {}
  for _, one in ipairs(all) do
    one.running = one.counters.rows:list_running()
    one.sums = sum_all(one.counters, one.running)
  end
  for _, family in ipairs(FAMILIES) do
    local before = #texts
    texts[before + 1] = HEADS[format][family.name]
    for _, one in ipairs(all) do add_samples[family.kind](texts, one, family) end
    if family.is_optional and #texts == before + 1 then texts[before + 1] = nil end
  end
  if format == "openmetrics" then texts[#texts + 1] = "# EOF\n" end
  return texts
end

return metrics
