-- The files of examples/monitoring/: the alerts with their unit tests and runbooks, the dashboard, and the metrics that
-- both use. spec/gateway/alerts_spec.lua has them run.

local cjson = require "cjson"
local codes = require "icptoken.gateway.codes"
local docs = require "support.docs"
local files = require "support.files"
local prometheus = require "support.prometheus"

local RULES, TESTS = "icptoken.rules.yml", "icptoken.rules.test.yml"
local DASHBOARD = "icptoken-dashboard.json"
local RUNBOOKS = "docs/operations.md"
local RUNBOOK_URL = "https://github.com/icptoken/icptoken/blob/main/docs/operations.md#"

local function read(name)
  return files.read(prometheus.DIRECTORY .. name)
end

-- The alerts among the rules, in order: { name =, text = }.
local function list_alerts(rules)
  local alerts = {}
  for rule in (rules:gsub("\n      %- ", "\n\0") .. "\0"):gmatch "%z([^%z]+)" do
    local name = rule:match "^alert: (%w+)\n"
    if name then alerts[#alerts + 1] = { name = name, text = rule:gsub("\n  %- name:.*", "\n") } end
  end
  return alerts
end

-- The expectations of the unit tests for each alert: how often it fires, and how often it does not.
local function count_expectations(tests)
  local counts = {}
  for name, expected in tests:gmatch "alertname: (%w+)\n%s+exp_alerts:([^\n]*)" do
    counts[name] = counts[name] or { fires = 0, is_quiet = 0 }
    local kind = expected == " []" and "is_quiet" or "fires"
    counts[name][kind] = counts[name][kind] + 1
  end
  return counts
end

local function make_directory()
  local process = assert(io.popen "mktemp -d")
  local dir = process:read "*l"
  process:close()
  return dir
end

-- Runs the unit tests, or those of one alert, on these rules. Returns whether they pass, and the output.
local function test_rules(rules, name)
  local dir = make_directory()
  files.write(dir .. "/" .. RULES, rules)
  files.write(dir .. "/" .. TESTS, ((read(TESTS) .. "\n"):gsub("  %- name: .-\n\n", function(test)
    return (not name or test:find("alertname: " .. name .. "\n", 1, true)) and test or ""
  end)))
  local status, output = prometheus.run_promtool("test", "rules", dir .. "/" .. TESTS)
  os.execute("rm -rf " .. dir)
  return status == 0, output
end

-- Replaces a part of a text, given by its positions.
local function put(text, first, last, part)
  return text:sub(1, first - 1) .. part .. text:sub(last + 1)
end

-- All versions of an alert with one threshold a fifth less strict, or that fire at once: a list of { what =, text = }.
local function loosen(alert)
  local versions = {}
  for first, operator, number, last in alert.text:gmatch "() ([<>]) ([%d.]+)%f[^%d.]()" do
    local other = ("%.6g"):format(tonumber(number) * (operator == ">" and 0.8 or 1.25))
    versions[#versions + 1] = { what = operator .. " " .. number,
      text = put(alert.text, first, last - 1, " " .. operator .. " " .. other) }
  end
  local text, count = alert.text:gsub("\n        for: %w+\n", "\n        for: 0s\n")
  assert.equal(1, count, alert.name)
  versions[#versions + 1] = { what = "for", text = text }
  return versions
end

-- Escapes the special characters of a pattern.
local function replace_once(text, old, new)
  local first, last = text:find(old, 1, true)
  return put(text, first, last, new)
end

describe("the alerts", function()
  local rules, alerts = read(RULES), list_alerts(read(RULES))

  it("are valid, as is the configuration that loads them", function()
    for _, arguments in ipairs { { "check", "rules", "--lint=all", "--lint-fatal", prometheus.DIRECTORY .. RULES },
      { "check", "config", prometheus.DIRECTORY .. "prometheus.yml" } } do
      local status, output = prometheus.run_promtool(unpack(arguments))
      assert.equal(0, status, output)
      assert.is_nil(output:find "FAILED", output)
    end
  end)

  it("fire, stop, and do not fire just below their thresholds, as the unit tests check", function()
    local passed, output = test_rules(rules)
    assert.is_true(passed, output)
    local counts = count_expectations(read(TESTS))
    assert.is_true(#alerts >= 13)
    for _, alert in ipairs(alerts) do
      local count = counts[alert.name] or {}
      -- it must not fire before its time, after the fault, or just below the threshold
      assert.is_true((count.fires or 0) >= 1 and (count.is_quiet or 0) >= 4, alert.name)
      counts[alert.name] = nil
    end
    assert.same({}, counts)
  end)

  it("have unit tests that detect a looser threshold #deep", function()
    local count, unnoticed = 0, {}
    for _, alert in ipairs(alerts) do
      assert.is_true(test_rules(rules, alert.name))
      for _, version in ipairs(loosen(alert)) do
        count = count + 1
        if test_rules(replace_once(rules, alert.text, version.text), alert.name) then
          unnoticed[#unnoticed + 1] = alert.name .. " " .. version.what
        end
      end
    end
    assert.is_true(count > 2 * #alerts, count)
    assert.same({}, unnoticed)
  end)

  it("each have a runbook, and each runbook has an alert", function()
    local expected, found = {}, {}
    for i, alert in ipairs(alerts) do
      expected[i] = alert.name
      local url = RUNBOOK_URL .. alert.name:lower()
      assert.matches("\n          runbook_url: " .. url .. "\n", alert.text .. "\n", 1, true)
      for _, annotation in ipairs { "summary", "description" } do
        assert.matches("\n          " .. annotation .. ': "', alert.text, 1, true)
      end
      assert.matches("\n          severity: %l+\n", alert.text)
    end
    for _, heading in ipairs(docs.list_headings(RUNBOOKS)) do
      if heading:find "^Icptoken" then
        found[#found + 1] = heading
        local section = docs.read_section(RUNBOOKS, heading)
        for _, part in ipairs { "%*%*Cause", "see%.?%*%*", "%*%*Do%.%*%*" } do
          assert.matches(part, (section:gsub("%*%*See", "**see")), 1)
        end
      end
    end
    table.sort(expected)
    table.sort(found)
    assert.same(expected, found)
  end)
end)

describe("the metrics", function()
  local SUFFIXES = { counter = { "_total" }, gauge = { "" }, worker = { "" }, reading = { "" }, info = { "_info" },
    histogram = { "_bucket", "_sum", "_count" } }

  -- The names of all samples of the gateway.
  local function list_samples()
    local names = {}
    for metric, kind in files.read "lua/icptoken/gateway/metrics.lua"
      :gmatch 'metric = "(icptoken_[%l_]+)", kind = "(%l+)"' do
      for _, suffix in ipairs(SUFFIXES[kind]) do names[metric .. suffix] = true end
    end
    return names
  end

  it("that the alerts and the dashboard use exist", function()
    local names = list_samples()
    for _, name in ipairs { RULES, TESTS, DASHBOARD } do
      local count = 0
      -- a name with a colon is that of a recording rule
      for metric in read(name):gmatch "%f[%w_:](icptoken_[%l_]+)%f[^%w_:]" do
        count = count + 1
        assert.is_true(names[metric], name .. " uses " .. metric)
      end
      assert.is_true(count > 20, name)
    end
  end)
end)

-- The rules of https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/ and of
-- Grafana's own schema of a dashboard.
describe("the dashboard", function()
  local dashboard = cjson.decode(read(DASHBOARD))
  local SOURCE = { type = "prometheus", uid = "${datasource}" }
  local UNITS = { none = true, short = true, percentunit = true, s = true, bytes = true, reqps = true, ops = true }
  local KINDS = { row = true, stat = true, timeseries = true, heatmap = true, table = true }

  it("has the required fields of a dashboard", function()
    assert.equal(cjson.null, dashboard.id) -- Grafana assigns it
    assert.matches("^[%w_-]+$", dashboard.uid)
    assert.is_true(#dashboard.uid >= 8 and #dashboard.uid <= 40)
    assert.is_true(dashboard.schemaVersion >= 36)
    for _, name in ipairs { "title", "description", "timezone", "refresh" } do
      assert.is_true(#dashboard[name] > 0, name)
    end
    assert.same({ from = "now-6h", to = "now" }, dashboard.time)
    assert.is_true(dashboard.graphTooltip == 0 or dashboard.graphTooltip == 1 or dashboard.graphTooltip == 2)
  end)

  it("has variables that are defined before they are used", function()
    local defined = {}
    for _, variable in ipairs(dashboard.templating.list) do
      for used in cjson.encode { variable.query, variable.datasource or "" }:gmatch "%${?(%l+)" do
        assert.is_true(defined[used], used)
      end
      assert.is_nil(defined[variable.name])
      defined[variable.name] = true
      if variable.type == "query" then
        assert.same(SOURCE, variable.datasource)
        assert.is_true(variable.query.query == variable.definition)
      end
    end
    assert.same("datasource", dashboard.templating.list[1].type)
    for _, panel in ipairs(dashboard.panels) do
      for used in cjson.encode(panel):gsub("%$__rate_interval", ""):gmatch "%${?([%l_]+)" do
        assert.is_true(defined[used], used)
      end
    end
  end)

  it("has panels with a title, a description, a source and a unit each", function()
    local titles, ids = {}, {}
    for _, panel in ipairs(dashboard.panels) do
      assert.is_true(KINDS[panel.type], panel.type)
      assert.is_true(#panel.title > 0 and not titles[panel.title], panel.title)
      assert.is_true(panel.id > 0 and panel.id % 1 == 0 and not ids[panel.id], panel.title)
      titles[panel.title], ids[panel.id] = true, true
      if panel.type ~= "row" then
        assert.is_true(#panel.description > 0, panel.title)
        assert.same(SOURCE, panel.datasource)
        local unit = panel.type == "heatmap" and panel.options.yAxis.unit or panel.fieldConfig.defaults.unit
        assert.is_true(UNITS[unit], panel.title)
        local steps = (panel.fieldConfig.defaults.thresholds or {}).steps or {}
        for i, step in ipairs(steps) do
          assert.equal(i == 1, step.value == cjson.null, panel.title) -- stands for -Infinity
          assert.is_true(i < 3 or step.value > steps[i - 1].value, panel.title)
        end
        local references = {}
        for _, target in ipairs(panel.targets) do
          assert.same(SOURCE, target.datasource)
          assert.is_true(target.refId:find "^%u$" and not references[target.refId])
          references[target.refId] = true
        end
        assert.is_true(#panel.targets > 0, panel.title)
      end
    end
  end)

  -- What an operator looks for: words of an expression, and the kind of its panel.
  local SHOWN = {
    { "sum by (result) (rate(icptoken_requests_total", "timeseries" },
    { "sum by (le) (increase(icptoken_fetch_seconds_bucket", "heatmap" }, { 'result=~"cached|', "timeseries" },
    { "icptoken_inflight{", "timeseries" }, { "icptoken_inflight_limit", "timeseries" },
    { "icptoken_queued{", "timeseries" }, { "icptoken_queue_limit", "timeseries" }, { 'result="stale"', "timeseries" },
    { "icptoken_evictions_total", "timeseries" }, { "icptoken_worker_inflight", "timeseries" },
    { "icptoken_worker_queued", "timeseries" }, { "by (instance", "timeseries" },
    { "icptoken_redis_available", "timeseries" }, { "icptoken_fleet_total", "timeseries" },
  }

  it("shows what an operator looks for", function()
    for _, shown in ipairs(SHOWN) do
      local count = 0
      for _, panel in ipairs(dashboard.panels) do
        for _, target in ipairs(panel.targets or {}) do
          if panel.type == shown[2] and target.expr:find(shown[1], 1, true) then count = count + 1 end
        end
      end
      assert.is_true(count > 0, shown[1])
    end
  end)

  it("has panels that fit the grid and do not overlap", function()
    local taken = {}
    for _, panel in ipairs(dashboard.panels) do
      local place = panel.gridPos
      assert.is_true(place.w > 0 and place.h > 0 and place.x >= 0 and place.y >= 0 and place.x + place.w <= 24)
      for x = place.x, place.x + place.w - 1 do
        for y = place.y, place.y + place.h - 1 do
          local cell = x .. "," .. y
          assert.is_nil(taken[cell], panel.title .. " overlaps " .. tostring(taken[cell]))
          taken[cell] = panel.title
        end
      end
    end
  end)

  it("counts the results that clients get as 5xx", function()
    local expected, found = {}, {}
    for _, code in ipairs((codes.list())) do
      if codes.get(code).status >= 500 then expected[#expected + 1] = code end
    end
    local expression
    for _, panel in ipairs(dashboard.panels) do
      if panel.title == "Answered with 5xx" then expression = panel.targets[1].expr end
    end
    for code in expression:match 'result=~"([^"]+)"':gmatch "[^|]+" do found[#found + 1] = code end
    table.sort(found)
    assert.same(expected, found)
  end)
end)
