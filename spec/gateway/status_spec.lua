-- gateway:status: the page and its JSON, what they show of changes of state, what they never show, and how the page
-- looks and works in a real browser.

local chromium = require "support.chromium"
local cjson = require "cjson"
local docs = require "support.docs"
local fleet_bed = require "support.fleet_bed"
local gateway_bed = require "support.gateway_bed"
local load = require "support.load"
local mime = require "mime"
local shell = require "support.shell"
local testkit = require "testkit"

local LOCATION = "location = /status { content_by_lua_block { gateway:status() } }\n"
-- Text that could break out of HTML or deceive a reader: a tag, quotes, an entity, a control, a bidirectional override
-- (U+202E), bytes that are not UTF-8.
local HOSTILE = "<img src=x onerror=alert(1)>\"'&lt;\27[31m\226\128\174moc.live\255"
local HOSTILE_SHOWN = "<img src=x onerror=alert(1)>\"'&lt;\\x1B[31m\\xE2\\x80\\xAEmoc.live\\xFF"

local run_shell = shell.run

local function hash(content)
  local path = os.tmpname()
  local file = assert(io.open(path, "wb"))
  file:write(content)
  file:close()
  local digest = run_shell("openssl dgst -sha256 -binary " .. path)
  os.remove(path)
  return (mime.b64(digest))
end

describe("the status of a gateway", function()
  local bed
  setup(function() bed = gateway_bed.open() end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function() bed.stub:reset() end)

  -- options: as for bed:start.
  local function start(options)
    local all = { locations = LOCATION }
    for name, value in pairs(options or {}) do
      all[name] = name == "locations" and LOCATION .. value or value
    end
    return bed:start(all)
  end

  local function get(gate, accept, method)
    return load.request(gate.port, { target = "/status", method = method, headers = { Accept = accept } })
  end

  local function read(gate)
    local answer = get(gate, "application/json")
    assert.equal(200, answer.status, answer.problem)
    return cjson.decode(answer.body), answer.body
  end

  local function read_kinds(gate)
    local kinds = {}
    for i, change in ipairs(read(gate).changes) do kinds[i] = change.kind end
    return table.concat(kinds, " ")
  end

  local function await_kinds(gate, kinds)
    gateway_bed.await(kinds, function() return read_kinds(gate):find(kinds, 1, true) end)
  end

  -- Requests tokens for new keys.
  local count = 0
  local function request_tokens(gate, times)
    for _ = 1, times do
      count = count + 1
      load.request(gate.port, bed:request(("/v2/new/image%d/manifests/1"):format(count)))
    end
  end

  it("is a page or JSON, as the client prefers", function()
    local gate = start()
    local html, json = "text/html; charset=utf-8", "application/json"
    for _, row in ipairs {
      { "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", html }, { "*/*", html }, { nil, html },
      { "application/json", json }, { "application/*", json }, { "text/html;q=0.5, application/json", json },
      { "APPLICATION/JSON ; q=1.0 , text/html ; q=0.9", json }, { "application/json;q=0.2,*/*;q=0.5", html },
      { "image/png", html }, { "text/html;q=0, */*;q=0.1", json },
    } do
      local answer = get(gate, row[1])
      assert.same({ 200, row[2] }, { answer.status, answer.headers["content-type"] }, row[1])
      assert.equal("Accept", answer.headers.vary)
      assert.equal("no-store", answer.headers["cache-control"])
      local head = get(gate, row[1], "HEAD")
      assert.same({ 200, row[2], "" }, { head.status, head.headers["content-type"], head.body })
    end
    local refused = get(gate, nil, "POST")
    assert.same({ 405, "GET, HEAD" }, { refused.status, refused.headers.allow })
    gate:stop()
  end)

  it("runs and loads nothing but its own script and style sheet", function()
    local gate = start()
    local answer = get(gate)
    local style, script = answer.body:match "<style>(.-)</style>.*<script>(.-)</script>"
    local policy = answer.headers["content-security-policy"]
    assert.equal(("default-src 'none'; script-src 'sha256-%s'; style-src 'sha256-%s'; connect-src 'self'; "
      .. "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"):format(hash(script), hash(style)), policy)
    assert.equal("nosniff", answer.headers["x-content-type-options"])
    assert.not_matches("[%s\"']src=", answer.body:gsub("<script>.-</script>", ""))
    assert.not_matches("href=", answer.body)
    assert.not_matches(" style=", answer.body)
    assert.not_matches("%son%l+=", answer.body)
    gate:stop()
  end)

  it("has the fields that the documentation names", function()
    local gate = start { gateway = [[challenge = "bearer", realm = "https://registry.example.com/login"]] }
    request_tokens(gate, 2)
    await_kinds(gate, "started")
    local names = {}
    for name in pairs(read(gate)) do names[#names + 1] = name end
    names[#names + 1] = "fleet" -- see below
    table.sort(names)
    assert.same(docs.list_row_names("docs/gateway.md", "gateway:status"), names)
    gate:stop()
  end)

  it("counts over all workers", function()
    local gate = start { gateway = "name = 'gate', max_inflight = 3, max_queue = 50", dict = "8m" }
    gateway_bed.await("both workers", function() return #read(gate).workers == 2 end)
    assert.equal("unused", read(gate).endpoint.state)
    load.run(gate.port, 20, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i)) end, 4)
    load.run(gate.port, 60, function(i) return bed:request(("/v2/a%d/manifests/1"):format(i % 20 + 1)) end, 4)
    load.run(gate.port, 5, function() return { target = "/v2/" } end, 2)
    local state
    gateway_bed.await("the requests", function()
      state = read(gate)
      return state.requests.total == 85
    end)
    assert.same({ "gate", "ok", "Working" }, { state.name, state.level, state.summary })
    assert.same({ { "cached", 60 }, { "fresh", 20 }, { "no_credential", 5 } }, {
      { state.requests.results[1].result, state.requests.results[1].count },
      { state.requests.results[2].result, state.requests.results[2].count },
      { state.requests.results[3].result, state.requests.results[3].count } })
    assert.equal(0.75, state.cache.hit_ratio)
    assert.equal(8 * 2 ^ 20, state.cache.bytes)
    assert.same({ "ok", 20, 0, false },
      { state.endpoint.state, state.endpoint.fetches, state.endpoint.failures, state.endpoint.paused })
    assert.is_true(state.endpoint.median_seconds > 0 and state.endpoint.p99_seconds >= state.endpoint.median_seconds)
    assert.same({ used = 0, limit = 6, share = 0, level = "ok" }, state.queue.inflight)
    assert.same({ used = 0, limit = 100, share = 0, level = "ok" }, state.queue.queued)
    local pids, sum = {}, 0
    for i, worker in ipairs(state.workers) do
      pids[i], sum = worker.pid, sum + worker.requests
      assert.is_false(worker.exiting)
    end
    assert.same({ gate:workers(), 85 }, { pids, sum })
    gate:stop()
  end)

  it("shows what is in progress and what waits", function()
    local gate = start { gateway = "max_inflight = 1, max_queue = 4", workers = 1 }
    bed.stub:plan { ["end"] = "hold", raw = "", times = "forever" }
    local tasks = {}
    for i = 1, 5 do
      tasks[i] = function()
        load.perform(gate.port, { target = ("/v2/held%d/manifests/1"):format(i),
          headers = { Authorization = bed.credential } })
      end
    end
    tasks[6] = function()
      gateway_bed.await("a token request and a queue", function()
        local answer = load.perform(gate.port, { target = "/status", headers = { Accept = "application/json" } })
        local queue = cjson.decode(answer.body).queue
        return queue.inflight.used == 1 and queue.queued.used == 4 and queue.queued.level == "warning"
          and queue.inflight.share == 1
      end)
      assert.equal(503, load.perform(gate.port, bed:request "/v2/late/manifests/1").status)
      gateway_bed.await("the change", function()
        local answer = load.perform(gate.port, { target = "/status", headers = { Accept = "application/json" } })
        return cjson.decode(answer.body).changes[1].kind == "queue_full"
      end)
      gate:stop()
    end
    load.together(unpack(tasks))
  end)

  it("shows when the endpoint began to fail and when it answered again", function()
    local gate = start { gateway = [[name = "gate"]], workers = 1 }
    local url = ("https://localhost:%d"):format(bed.stub.port)
    local before = os.time()
    bed.stub:plan { status = 500, times = "forever" }
    request_tokens(gate, 1)
    await_kinds(gate, "endpoint_failing")
    local state = read(gate)
    assert.same({ "server_error", "error", "Failing (server_error)", url },
      { state.endpoint.state, state.endpoint.level, state.endpoint.summary, state.endpoint.url })
    assert.same({ "error", "Failing" }, { state.level, state.summary })
    assert.matches("requests to " .. url .. " fail: localhost", state.endpoint.text, 1, true)
    assert.same({ level = "error", text = state.endpoint.text }, state.problems[1])
    assert.is_true(state.endpoint.since >= before and state.endpoint.since <= os.time() + 1)
    assert.equal(state.endpoint.since, state.changes[1].time)
    bed.stub:reset()
    request_tokens(gate, 1)
    await_kinds(gate, "endpoint_answering endpoint_failing")
    state = read(gate)
    assert.same({ "ok", "ok", "ok" }, { state.level, state.endpoint.state, state.changes[1].level })
    assert.is_nil(state.endpoint.since)
    gate:stop()
  end)

  it("shows that renewals are paused, and when they resume #deep", function()
    -- makes the token due for renewal
    local gate = start { workers = 1, locations = [[location = /age {
      content_by_lua_block {
        local dict, now = ngx.shared.icptoken, require("icptoken.gateway.clock").now()
        local store = require("icptoken.gateway.store").new(dict, print)
        for _, name in ipairs(dict:get_keys(0)) do
          if #name == 32 then store:put_token(name, store:get_token(name), now - 1, now + 3600) end
        end
      }
    }]] }
    load.request(gate.port, bed:request "/v2/")
    load.request(gate.port, { target = "/age" })
    bed.stub:plan { status = 500, times = "forever" }
    request_tokens(gate, 2)
    load.request(gate.port, bed:request "/v2/")
    await_kinds(gate, "renewals_paused endpoint_failing started")
    bed.stub:reset()
    request_tokens(gate, 1)
    gateway_bed.await("the end of the pause", function()
      local state = read(gate)
      return state.changes[1].kind == "renewals_resumed" and not state.endpoint.paused
    end)
    gate:stop()
  end)

  it("shows when logins fail, tokens are rejected, and tokens are evicted #deep", function()
    local gate = start { workers = 1, dict = "32k",
      gateway = [[challenge = "bearer", realm = "https://registry.example.com/login"]],
      locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    local login = { target = "/login", headers = { Authorization = "Basic YWRtaW46YWRtaW4=" } }
    bed.stub:plan { status = 500, times = "forever" }
    load.request(gate.port, login)
    await_kinds(gate, "login_failing started")
    local state = read(gate)
    assert.same({ "error", "server_error", "unused" },
      { state.level, state.identity_provider.state, state.endpoint.state })
    bed.stub:reset()
    load.request(gate.port, login)
    await_kinds(gate, "login_answering login_failing")
    for _ = 1, 2 do
      load.request(gate.port, bed:request("/v2/app/manifests/1", "GET", { ["X-Test-Status"] = "401",
        ["X-Test-Challenge"] = [[Bearer realm="r",error="invalid_token"]] }))
    end
    await_kinds(gate, "tokens_rejected")
    -- No request more than it takes, as the changes could be evicted, too.
    gateway_bed.await("an eviction", function()
      request_tokens(gate, 1)
      return load.request(gate.port, { target = "/metrics" }).body:find "icptoken_evictions_total{[^}]*} [1-9]"
    end)
    await_kinds(gate, "tokens_evicted")
    gate:stop()
  end)

  it("shows what the fleet shares, and that its Redis does not work #deep", function()
    local fleet = fleet_bed.open()
    finally(function() fleet_bed.close(fleet) end)
    local gates = fleet:start_all(2, { workers = 1, locations = LOCATION })
    for _, gate in ipairs(gates) do
      assert.equal(200, load.request(gate.port, fleet.bed:request "/v2/app/manifests/1").status)
    end
    local first, second = read(gates[1]).fleet, read(gates[2]).fleet
    assert.same({ 0, true, 0 }, { first.tokens, first.leases > 0, first.alone })
    assert.same({ 1, 0, 0 }, { second.tokens, second.leases, second.alone })
    assert.same({ true, "ok", "Sharing tokens" }, { first.available, first.level, first.summary })
    assert.matches("127%.0%.0%.1:" .. fleet.redis.port, first.redis)
    assert.is_nil(get(gates[1]).body:find('data-if="fleet" hidden', 1, true))
    fleet.redis:stop()
    local turn = 0
    gateway_bed.await("the change", function()
      turn = turn + 1
      load.request(gates[1].port, fleet.bed:request(("/v2/app%d/manifests/1"):format(turn)))
      return read(gates[1]).changes[1].kind == "redis_failing"
    end)
    local state = read(gates[1])
    assert.same({ false, "warning", "Without Redis", "warning", state.changes[1].text, state.changes[1].time },
      { state.fleet.available, state.fleet.level, state.fleet.summary, state.level, state.problems[1].text,
        state.fleet.since })
  end)

  it("shows a reload and a worker that crashed, and keeps earlier changes", function()
    local gate = start { workers = 1 }
    local worker = gateway_bed.await_workers(gate, 1)[1]
    await_kinds(gate, "started")
    testkit.kill(worker, "KILL")
    gateway_bed.await("another worker", function()
      local pid = gate:workers()[1]
      return pid and pid ~= worker
    end)
    await_kinds(gate, "worker_replaced started")
    local state = read(gate)
    assert.equal("warning", state.level)
    assert.matches(("worker 0 (process %d) exited unexpectedly"):format(worker), state.problems[1].text, 1, true)
    assert.equal(1, #state.workers)
    gate:reload()
    await_kinds(gate, "reloaded worker_replaced started")
    gate:stop()
  end)

  it("keeps the last 50 changes, and no garbage that other code wrote #deep", function()
    local gate = start { locations = [[
      location = /add {
        content_by_lua_block {
          for i = 1, 120 do gateway.store:add_change(gateway.target.key, "threads_short", "change " .. i) end
        }
      }
      location = /spoil {
        content_by_lua_block {
          local dict = ngx.shared.icptoken
          for i, name in ipairs(dict:get_keys(0)) do
            local value = ({ "", 7, true, "121 x threads_short a", "121 1.5 no_such_kind a" })[i % 5 + 1]
            if name:find "^h.+:" then dict:set(name, value) end
          end
        }
      }
      location = /forget {
        content_by_lua_block {
          for _, name in ipairs(ngx.shared.icptoken:get_keys(0)) do ngx.shared.icptoken:set(name, "text") end
        }
      }]] }
    load.request(gate.port, { target = "/add" })
    local changes
    gateway_bed.await("the changes", function()
      changes = read(gate).changes
      return #changes == 50
    end)
    assert.same({ "change 120", "change 71" }, { changes[1].text, changes[50].text })
    for _, target in ipairs { "/spoil", "/forget" } do
      load.request(gate.port, { target = target })
      gateway_bed.await("the change of the dict", function() return #read(gate).changes == 0 end)
    end
    load.request(gate.port, { target = "/add" }) -- for the first of these there is no counter
    gateway_bed.await("new changes", function() return #read(gate).changes == 50 end)
    assert.not_matches("%[error%]", gate:log())
    gate:stop()
  end)

  it("contains no secret", function()
    local gate = start { gateway = [[
      headers = { ["X-Api-Key"] = "s3cret-header" }, proxy = "http://joe:s3cret-proxy@127.0.0.1:1",
      key_password = "s3cret-key", realm = "https://joe:s3cret-realm@registry.example.com/login?s3cret-query#s3cret",
      resolve = { ["mycluster.icp:8443"] = { "10.0.0.5", "10.0.0.6" } },
      credential = function() return { username = "joe", password = "s3cret-user" } end]] }
    load.request(gate.port, bed:request "/v2/private/image/manifests/1")
    local state, json = read(gate)
    local all = json .. get(gate).body
    assert.is_nil(all:find("s3cret", 1, true))
    assert.is_nil(all:find("joe", 1, true))
    assert.is_nil(all:find("private", 1, true))
    assert.is_nil(all:find("eyJ", 1, true))
    local options = {}
    for _, option in ipairs(state.configuration) do options[option.name] = option.value end
    assert.equal("X-Api-Key (set, not shown)", options.headers)
    assert.equal("http://127.0.0.1:1", options.proxy)
    assert.equal("(set, not shown)", options.key_password)
    assert.equal("https://registry.example.com/login", options.realm)
    assert.equal("mycluster.icp:8443 = 10.0.0.5 10.0.0.6", options.resolve)
    assert.equal("(a function)", options.credential)
    assert.same({ 10, 1000, "token-service" }, { options.timeout, options.max_queue, options.service })
    gate:stop()
  end)

  it("has a decision for each option: shown unchanged, in part, or not at all", function()
    local gate = start { locations = [[location = /shown {
      content_by_lua_block {
        local options = require "icptoken.gateway.options"
        local all = {}
        for _, names in ipairs { options.list_names(), options.list_client_names() } do
          for _, name in ipairs(names) do all[name] = "value-of-it" end
        end
        all.headers, all.resolve = { a = "b" }, { a = "b" }
        for _, row in ipairs(require("icptoken.gateway.configuration").list(all, all)) do
          if row.value == "(set, not shown)" then ngx.say(row.name) end
        end
      }
    }]] }
    assert.equal("key_password\n", load.request(gate.port, { target = "/shown" }).body)
    gate:stop()
  end)

  it("escapes text from other sources", function()
    local gate = start { gateway = ("name = %q"):format(HOSTILE) }
    bed.stub:plan { status = 500, body = '{"message":"</script><script>alert(2)</script>"}', times = "forever",
      headers = { ["Content-Type"] = "application/json" } }
    request_tokens(gate, 1)
    await_kinds(gate, "endpoint_failing")
    local state = read(gate)
    assert.equal(HOSTILE_SHOWN, state.name)
    assert.matches("<script>alert(2)</script>", state.problems[1].text, 1, true)
    local html = get(gate).body
    assert.is_nil(html:find("<img", 1, true))
    assert.is_nil(html:find("alert(2)<", 1, true))
    assert.matches("&lt;img src=x onerror=alert(1)&gt;&quot;&#39;&amp;lt;\\x1B[31m", html, 1, true)
    assert.matches("&lt;/script&gt;&lt;script&gt;alert(2)", html, 1, true)
    gate:stop()
  end)

  it("says that the gateway was not started #deep", function()
    local gate = bed:start { locations = ([[
      set_by_lua_block $ignored { other = other or require("icptoken.gateway").new(%s) return "" }
      location = /status { content_by_lua_block { other:status() } }]]):format(bed:write_options()) }
    local state = read(gate)
    assert.equal("error", state.level)
    assert.matches("gateway:start()", state.problems[1].text, 1, true)
    gate:stop()
  end)

  local in_browser = chromium.find() and it or function(name)
    pending(name .. " (Chromium is not installed)")
  end

  describe("in a browser", function()
    local browser, gate
    setup(function() browser = chromium.find() and chromium.start() end)
    teardown(function() if browser then browser:stop() end end)
    before_each(function()
      if not browser then return end
      gate = start { gateway = ("name = %q"):format(HOSTILE) }
      gateway_bed.await("both workers", function() return #read(gate).workers == 2 end)
      request_tokens(gate, 3)
    end)
    after_each(function() if gate then gate:stop() end end)

    local function make_url() return ("http://127.0.0.1:%d/status"):format(gate.port) end

    -- Waits until the page has been updated by its own script.
    local function await_update(tab)
      tab:evaluate [[new Promise((resolve) => new MutationObserver(resolve).observe(
        document.getElementById("time"), { childList: true, characterData: true, subtree: true }))]]
    end

    -- What a reader sees, without what changes by itself.
    local READ = [[document.body.innerText.replace(/\d+ (s|min) ago/g, "AGO").replace(/As of \S+ \S+/, "As of")
      .replace(/\d[\d.,]*\n? *(per second|in total)/, "RATE").replace(/Live, every 3 seconds|Pause updates/g, "")
      .replace(/This page loads again every 10 seconds\./, "").replace(/\s+/g, " ")]]

    in_browser("shows the state, keeps it up to date, and leaves no error in the console", function()
      local tab = browser:open()
      tab:emulate(1280, "light")
      tab:go(make_url())
      assert.equal(HOSTILE_SHOWN, tab:evaluate "document.querySelector('h1').textContent")
      assert.equal("Working", tab:evaluate "document.querySelector('.badge').textContent")
      assert.equal("Working \226\128\147 icptoken gateway", tab:evaluate "document.title")
      local text = tab:evaluate(READ)
      for _, words in ipairs { "Token endpoint", "Answering", ("https://localhost:%d"):format(bed.stub.port),
        "3, 0 of them failed", "Workers", "Running", "Recent changes", "nginx has started with 2 workers" } do
        assert.matches(words, text, 1, true)
      end
      await_update(tab)
      -- the script writes exactly what the gateway had written
      assert.equal(text, tab:evaluate(READ))
      bed.stub:plan { status = 500, times = "forever" }
      request_tokens(gate, 1)
      tab:evaluate [[new Promise((resolve) => {
        const look = () => document.querySelector(".badge").textContent === "Failing" && resolve();
        new MutationObserver(look).observe(document.body, { childList: true, characterData: true, subtree: true });
        look();
      })]]
      assert.matches("Failing (server_error)", tab:evaluate(READ), 1, true)
      assert.same({}, tab:list_complaints())
      -- the script has turned a page without problems into the one that the gateway sends now
      local updated = tab:evaluate(READ)
      tab:go(make_url())
      assert.equal(updated, tab:evaluate(READ))
      gate:stop()
      tab:evaluate [[new Promise((resolve) => {
        const live = document.getElementById("live");
        const look = () => live.textContent.startsWith("No answer") && resolve();
        new MutationObserver(look).observe(live, { childList: true, characterData: true, subtree: true });
        look();
      })]]
    end)

    in_browser("works without scripts", function()
      local tab, other = browser:open(), browser:open()
      tab:emulate(1280, "light")
      tab:go(make_url())
      other:disable_scripts()
      other:emulate(1280, "light")
      other:go(make_url())
      assert.equal(tab:evaluate(READ), other:evaluate(READ))
      assert.is_true(other:evaluate "document.getElementById('pause').hidden")
      assert.matches("loads again every 10 seconds", other:evaluate "document.body.innerText")
      assert.same({}, other:list_complaints())
    end)

    in_browser("can be used with a keyboard #deep", function()
      local tab = browser:open()
      tab:go(make_url())
      tab:press "Tab"
      assert.equal("pause", tab:evaluate "document.activeElement.id")
      assert.is_true(tab:evaluate "getComputedStyle(document.activeElement).outlineStyle !== 'none'")
      tab:press "Space"
      assert.same({ "Resume updates", "Paused" },
        tab:evaluate "['pause', 'live'].map((id) => document.getElementById(id).textContent)")
      tab:press "Enter"
      await_update(tab)
      assert.equal("Pause updates", tab:evaluate "document.activeElement.textContent")
      -- updates do not move the focus, and it moves through all controls, in the order of the page
      local order = {}
      for i = 1, 3 do
        tab:press "Tab"
        order[i] = tab:evaluate [[document.activeElement.getAttribute("aria-labelledby")
          || document.activeElement.localName]]
      end
      assert.same({ "h-workers", "h-changes", "summary" }, order)
      assert.is_false(tab:evaluate "document.querySelector('details').open")
      tab:press "Enter"
      assert.is_true(tab:evaluate "document.querySelector('details').open")
    end)

    in_browser("names all its parts for those who do not see it #deep", function()
      local tab = browser:open()
      tab:go(make_url())
      assert.equal("en", tab:evaluate "document.documentElement.lang")
      assert.equal(1, tab:evaluate "document.querySelectorAll('h1').length")
      assert.equal(0, tab:evaluate [[(() => {
        const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
        return ids.length - new Set(ids).size;
      })()]])
      assert.equal(0, tab:evaluate "document.querySelectorAll('thead th:not([aria-hidden]):not([scope])').length")
      tab:call("Accessibility.enable")
      local named, nameless = 0, {}
      for _, node in ipairs(tab:call("Accessibility.getFullAXTree").nodes) do
        local role = node.role and node.role.value
        if not node.ignored and (role == "button" or role == "region" or role == "heading" or role == "columnheader"
          or role == "DisclosureTriangle" or role == "RootWebArea") then
          named = named + 1
          if not node.name or node.name.value == "" then nameless[#nameless + 1] = role end
        end
        if role == "image" or role == "img" or role == "graphics-document" then nameless[#nameless + 1] = role end
      end
      assert.same({}, nameless)
      assert.is_true(named > 20)
    end)

    -- Returns what is wrong with how the page looks: text with too little contrast (WCAG 2.2, 1.4.3), bars that cannot
    -- be told from their track (1.4.11), levels that only a colour tells (1.4.1).
    local FLAWS = [[(() => {
      const parse = (colour) => colour.match(/[\d.]+/g).map(Number);
      const luminance = ([r, g, b]) => [r, g, b].map((part) => part / 255)
        .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
        .reduce((sum, part, i) => sum + part * [0.2126, 0.7152, 0.0722][i], 0);
      const contrast = (a, b) => {
        const [high, low] = [luminance(a), luminance(b)].sort((x, y) => y - x);
        return (high + 0.05) / (low + 0.05);
      };
      const findBack = (element) => {
        for (let one = element; one; one = one.parentElement) {
          const back = parse(getComputedStyle(one).backgroundColor);
          if (back.length === 3 || back[3] === 1) return back;
        }
        return [255, 255, 255];
      };
      const flaws = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      let texts = 0;
      for (const details of document.querySelectorAll("details")) details.open = true;
      while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        if (!walker.currentNode.textContent.trim() || !element.getClientRects().length) continue;
        texts++;
        const ratio = contrast(parse(getComputedStyle(element).color), findBack(element));
        if (ratio < 4.5) flaws.push(element.textContent.trim() + ": " + ratio.toFixed(2));
      }
      if (texts < 50) flaws.push("only " + texts + " texts");
      for (const bar of document.querySelectorAll(".meter rect")) {
        const ratio = contrast(parse(getComputedStyle(bar).fill), findBack(bar.parentElement));
        if (ratio < 3) flaws.push("bar: " + ratio.toFixed(2));
      }
      const signs = { ok: "\u2713", warning: "!", error: "\u2715" };
      for (const element of document.querySelectorAll("[data-level]:not(svg)")) {
        if (!element.getClientRects().length) continue;
        const level = Object.keys(signs).find((name) => element.classList.contains(name));
        const before = getComputedStyle(element, "::before").content;
        if (!level || !before.includes(signs[level]) || !element.textContent.trim()) flaws.push(element.outerHTML);
      }
      if (document.documentElement.scrollWidth > innerWidth) flaws.push("wider than the window");
      for (const element of document.querySelectorAll("button, summary")) {
        if (element.getBoundingClientRect().height < 24) flaws.push("too small: " + element.textContent);
      }
      return flaws;
    })()]]

    for _, width in ipairs { 1280, 390 } do
      for _, scheme in ipairs { "light", "dark" } do
        local tag = width == 390 and scheme == "dark" and "" or " #deep"
        in_browser(("is readable at a width of %d, %s%s"):format(width, scheme, tag), function()
          gate:stop()
          gate = start { gateway = ("name = %q"):format(("long"):rep(60)), locations = [[location = /add {
            content_by_lua_block {
              for _, kind in ipairs { "threads_short", "tokens_rejected", "endpoint_answering" } do
                gateway.store:add_change(gateway.target.key, kind, ("word"):rep(90))
              end
            }
          }]] }
          load.request(gate.port, { target = "/add" })
          bed.stub:plan { status = 500, times = "forever" }
          request_tokens(gate, 1)
          await_kinds(gate, "endpoint_failing")
          local tab = browser:open()
          tab:emulate(width, scheme)
          tab:go(make_url())
          assert.equal(scheme == "dark", tab:evaluate [[getComputedStyle(document.body).backgroundColor
            === "rgb(13, 17, 23)"]])
          assert.same({}, tab:evaluate(FLAWS))
        end)
      end
    end
  end)
end)
