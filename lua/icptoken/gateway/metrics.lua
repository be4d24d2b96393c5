-- Counters of all workers, in memory that they share: a row a worker, in which only that worker writes, so that
-- counting takes no lock, costs nanoseconds, and is never evicted. They begin anew when nginx reads its configuration
-- anew.

local ffi = require "ffi"

local metrics = {}
local metrics_methods = {}
local metrics_meta = { __index = metrics_methods }

ffi.cdef [[
void *icptoken_mmap(void *, size_t, int, int, int, long) __asm__("mmap");
int icptoken_munmap(void *, size_t) __asm__("munmap");
]]

local PROT_READ_WRITE = 3
local MAP_SHARED_ANONYMOUS = ffi.os == "Linux" and 0x21 or 0x1001

-- Upper ends in seconds. The last column of a histogram is its sum, the one before it counts what is longer than all.
local BOUNDS = { 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30 }

local FAMILIES = {
  { name = "requests", metric = "icptoken_requests_total", kind = "counter", label = "result",
    help = "Requests that asked for a token, by what they got." },
  { name = "fetches", metric = "icptoken_fetches_total", kind = "counter", label = "code",
    help = "Questions to the token endpoint, by how they ended." },
  { name = "fetch_seconds", metric = "icptoken_fetch_seconds", kind = "histogram",
    help = "How long the questions to the token endpoint took." },
  { name = "wait_seconds", metric = "icptoken_wait_seconds", kind = "histogram",
    help = "How long requests waited for a token that was not at hand." },
  { name = "inflight", metric = "icptoken_inflight", kind = "gauge",
    help = "Questions to the token endpoint under way." },
  { name = "queued", metric = "icptoken_queued", kind = "gauge",
    help = "Keys that wait for their question to the token endpoint." },
  { name = "dropped", metric = "icptoken_dropped_total", kind = "counter",
    help = "Cached tokens that were dropped because the registry refused them." },
  { name = "evictions", metric = "icptoken_evictions_total", kind = "counter",
    help = "Writes to the dict that pushed out something that had not ended." },
}

local function map_rows(bytes)
  local pages = ffi.C.icptoken_mmap(nil, bytes, PROT_READ_WRITE, MAP_SHARED_ANONYMOUS, -1, 0)
  if ffi.cast("intptr_t", pages) == -1 then error("no memory for the metrics of the gateway", 0) end
  return ffi.gc(ffi.cast("double *", pages), function(rows) ffi.C.icptoken_munmap(rows, bytes) end)
end

-- Where each family's columns begin, and how many there are in all.
local function lay_out(labels)
  local columns, width = {}, 0
  for _, family in ipairs(FAMILIES) do
    local column = { first = width }
    if family.kind == "histogram" then
      width = width + #BOUNDS + 2
    else
      column.labels = labels[family.name] or { "" }
      column.at = {}
      for _, label in ipairs(column.labels) do
        column.at[label] = width
        width = width + 1
      end
    end
    columns[family.name] = column
  end
  return columns, width
end

--- Rows for this many workers. labels: the values of each family's label, by the family's name. To be called before
-- nginx starts its workers.
function metrics.new(gateway_name, workers, labels)
  local columns, width = lay_out(labels)
  local count = workers + 1 -- and one for processes without a number
  local rows = map_rows(count * width * 8)
  return setmetatable({ gateway_name = gateway_name, columns = columns, width = width, count = count, rows = rows,
    row = rows }, metrics_meta)
end

--- Takes this worker's row. What was under way in a worker of that number which died is not any more.
function metrics_methods:open_row(worker)
  local index = (worker or -1) + 1
  self.row = self.rows + (index < self.count and index or 0) * self.width
  self.row[self.columns.inflight.first] = 0
  self.row[self.columns.queued.first] = 0
end

--- Adds one, or an amount, to a counter or gauge.
function metrics_methods:add(name, label, amount)
  local at = self.columns[name].at[label or ""]
  self.row[at] = self.row[at] + (amount or 1)
end

--- Notes a length of time in a histogram.
function metrics_methods:observe(name, seconds)
  local at = self.columns[name].first
  local bucket = 0
  while bucket < #BOUNDS and seconds > BOUNDS[bucket + 1] do bucket = bucket + 1 end
  local sum = at + #BOUNDS + 1
  self.row[at + bucket] = self.row[at + bucket] + 1
  self.row[sum] = self.row[sum] + seconds
end

local function total(self, column)
  local sum = 0
  for row = 0, self.count - 1 do sum = sum + self.rows[row * self.width + column] end
  return sum
end

local function escape_label(text)
  return (text:gsub('[\\"\n]', { ["\\"] = "\\\\", ['"'] = '\\"', ["\n"] = "\\n" }))
end

local function add_line(lines, metric, labels, value)
  lines[#lines + 1] = ("%s{%s} %.17g"):format(metric, table.concat(labels, ","), value)
end

local function add_histogram(lines, self, family, gateway)
  local first, count = self.columns[family.name].first, 0
  for i = 0, #BOUNDS do
    count = count + total(self, first + i)
    local bound = BOUNDS[i + 1] and ("%.14g"):format(BOUNDS[i + 1]) or "+Inf"
    add_line(lines, family.metric .. "_bucket", { gateway, 'le="' .. bound .. '"' }, count)
  end
  add_line(lines, family.metric .. "_sum", { gateway }, total(self, first + #BOUNDS + 1))
  add_line(lines, family.metric .. "_count", { gateway }, count)
end

local function add_values(lines, self, family, gateway)
  local column = self.columns[family.name]
  for _, label in ipairs(column.labels) do
    local labels = { gateway }
    if family.label then labels[2] = ('%s="%s"'):format(family.label, label) end
    add_line(lines, family.metric, labels, total(self, column.at[label]))
  end
end

local function add_head(lines, metric, kind, help)
  lines[#lines + 1] = ("# HELP %s %s"):format(metric, help)
  lines[#lines + 1] = ("# TYPE %s %s"):format(metric, kind)
end

--- The text of Prometheus (exposition format 0.0.4) for these counters. readings: { metric, help, values } of further
-- gauges, where values is a list as long as the list of counters.
function metrics.render(all, readings)
  local lines = {}
  for _, family in ipairs(FAMILIES) do
    add_head(lines, family.metric, family.kind, family.help)
    local add = family.kind == "histogram" and add_histogram or add_values
    for _, one in ipairs(all) do
      add(lines, one, family, ('gateway="%s"'):format(escape_label(one.gateway_name)))
    end
  end
  for _, reading in ipairs(readings) do
    add_head(lines, reading.metric, "gauge", reading.help)
    for i, one in ipairs(all) do
      add_line(lines, reading.metric, { ('gateway="%s"'):format(escape_label(one.gateway_name)) }, reading.values[i])
    end
  end
  lines[#lines + 1] = ""
  return table.concat(lines, "\n")
end

return metrics
