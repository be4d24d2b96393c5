-- The audit: examples/nginx/audit.conf, what its lines say about each request, and that nobody can forge one.

local cjson = require "cjson"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"
local nginx = require "support.nginx"
local shell = require "support.shell"
local stub_client = require "stub.client"
local support = require "support.gateway"

local AUDIT = files.read "examples/nginx/audit.conf"
local FIELDS = { "time", "request_id", "client", "user", "method", "path", "scope", "status", "result", "source", "key",
  "wait", "token_request_id", "upstream_status", "seconds", "agent" }
local UNSAFE = '[^]-~ !#-[]'
local LOGGED = "access_log @DIR@/access.log icptoken;"
-- Reads lines of JSON more strictly than cjson does.
local PYTHON = [[/usr/bin/python3 -c '
import json, sys
for line in sys.stdin.buffer:
  pairs = json.loads(line.decode("utf-8", "strict"), object_pairs_hook=list)
  assert len(pairs) == %d == len(dict(pairs)) and all(isinstance(value, str) for _, value in pairs), line
  print("line")
' <%s 2>&1]]

local function write_basic(user, password)
  return "Basic " .. require("mime").b64(user .. ":" .. password)
end

describe("the audit", function()
  local bed, gate

  local function start(options)
    local http = support.configure { stub = bed.stub, upstream = bed.upstream,
      gateway = bed:write_options(options.gateway), locations = LOGGED .. (options.locations or "") }
    local one = nginx.start { http = AUDIT .. http, main = "thread_pool icptoken threads=16;" }
    bed.gateways[#bed.gateways + 1] = one
    return one
  end

  setup(function()
    bed = gateway_bed.open()
    gate = start { gateway = [[request_id_header = "X-Request-Id", retries = 0, timeout = 20]],
      locations = gateway_probe.LOCATIONS }
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function()
    bed.stub:reset()
    load.request(gate.port, { target = "/empty" })
  end)

  local function read_file(one)
    local file = io.open(one.dir .. "/access.log", "rb")
    local text = file and file:read "*a" or ""
    if file then file:close() end
    return text
  end

  -- The lines so far, without those of locations other than /v2/.
  local function read_lines(one)
    local lines = {}
    for text in read_file(one):gmatch "([^\n]*)\n" do
      local ok, line = pcall(cjson.decode, text)
      assert.is_true(ok, text)
      for _, name in ipairs(FIELDS) do assert.is_string(line[name], name) end
      if line.path:find "^/v2/" or line.path:find "^/login" or line.path == "(not ASCII)" then
        lines[#lines + 1] = line
      end
    end
    return lines
  end

  local function check_strictly(one)
    local text, copy = read_file(one):match "^.*\n", one.dir .. "/copy"
    files.write(copy, text)
    local output = shell.run(PYTHON:format(#FIELDS, copy))
    assert.equal(("line\n"):rep(select(2, text:gsub("\n", ""))), output)
  end

  -- Sends requests, one after the other, and returns their lines. nginx writes a line when the answer has been sent.
  local function log_of(one, ...)
    local lines = {}
    for i, request in ipairs { ... } do
      local before = #read_lines(one)
      load.request(one.port, request)
      lines[i] = gateway_bed.await("the line", function() return read_lines(one)[before + 1] end)
    end
    return lines
  end

  -- The ids that the cluster received, in the order of the token requests.
  local function list_sent_ids()
    local ids = {}
    for i, request in ipairs(bed.stub:requests()) do ids[i] = (stub_client.header(request, "X-Request-Id")) end
    return ids
  end

  it("says who requested what, whether the token was cached, and which token request it was", function()
    local fresh, cached = unpack(log_of(gate, bed:request "/v2/a/b/manifests/1", bed:request "/v2/a/b/manifests/2"))
    local ids = list_sent_ids()
    assert.equal(1, #ids)
    assert.same({ "fresh", "request", "repository:a/b:pull", "admin", "200", ids[1], ids[1] },
      { fresh.result, fresh.source, fresh.scope, fresh.user, fresh.status, fresh.token_request_id, fresh.request_id })
    assert.same({ "cached", "cache", "repository:a/b:pull", "admin", "", fresh.key },
      { cached.result, cached.source, cached.scope, cached.user, cached.token_request_id, cached.key })
    assert.matches("^%x%x%x%x%x%x%x%x$", fresh.key)
    assert.is_true(tonumber(fresh.wait) >= 0 and tonumber(cached.wait) >= 0)
    assert.equal("/v2/a/b/manifests/1", fresh.path)
  end)

  it("says how long a request waited", function()
    bed.stub:plan { delay = { before = 0.3 } }
    assert.is_true(tonumber(log_of(gate, bed:request "/v2/slow/manifests/1")[1].wait) >= 0.3)
  end)

  it("names one token request for all requests that waited for it, in all workers", function()
    local CROWD = 40
    bed.stub:plan { together = 2 } -- the token request waits for a second one, or a reset
    local before, ids, sources = #read_lines(gate), nil, {}
    local tasks = { function()
      gateway_bed.await("all requests", function()
        local _, waiting = gateway_probe.count_clients(gate.port)
        return waiting == CROWD and #bed.stub:requests() > 0
      end)
      ids = list_sent_ids()
      bed.stub:reset()
    end }
    for i = 1, CROWD do
      tasks[i + 1] = function() load.perform(gate.port, bed:request "/v2/crowd/manifests/1") end
    end
    load.together(unpack(tasks))
    assert.same({}, list_sent_ids())
    local lines = gateway_bed.await("the lines", function()
      local all = read_lines(gate)
      return #all >= before + CROWD and all
    end)
    assert.equal(1, #ids)
    for i = before + 1, #lines do
      local line = lines[i]
      sources[line.source] = (sources[line.source] or 0) + 1
      if line.source ~= "cache" then assert.equal(ids[1], line.token_request_id) end
      assert.equal(line.source == "request", line.request_id == ids[1])
    end
    assert.equal(1, sources.request)
    assert.is_true(sources.joined >= 1)
  end)

  it("says why a request failed, and the error log names the same token request", function()
    bed.stub:plan { status = 500 }
    local line = log_of(gate, bed:request "/v2/broken/manifests/1")[1]
    assert.same({ "server_error", "502", "" }, { line.result, line.status, line.user })
    assert.same({ line.token_request_id }, list_sent_ids())
    assert.matches("fail: [^\n]*%(request " .. line.token_request_id .. "%)", gate:log())
  end)

  for _, case in ipairs {
    { "no_credential", "401", "/v2/a/manifests/1", false }, { "invalid_credential", "401", "/v2/a/manifests/1", "x" },
    { "name_invalid", "404", "/v2/A/manifests/1" }, { "unauthorized", "401", "/v2/a/manifests/1", "Bearer wrong" },
  } do
    it("says " .. case[1], function()
      local headers = { Authorization = case[4] }
      if case[4] == nil then headers = nil end
      local line = log_of(gate, bed:request(case[3], "GET", headers))[1]
      assert.same({ case[1], case[2], "" }, { line.result, line.status, line.user })
    end)
  end

  it("says that a client has gone", function()
    bed.stub:plan { together = 2 }
    local before = #read_lines(gate)
    local connection = load.send(gate.port, bed:request "/v2/gone/manifests/1")
    gateway_bed.await("the token request", function() return #bed.stub:requests() == 1 end)
    connection:close()
    local line = gateway_bed.await("the line", function() return read_lines(gate)[before + 1] end)
    assert.same({ "client_gone", "499", "repository:gone:pull" }, { line.result, line.status, line.scope })
  end)

  it("names the user of a login", function()
    local one = start { gateway = [[challenge = "bearer", realm = "https://gate.example/login",
      request_id_header = "X-Request-Id"]],
      locations = "location = /login { content_by_lua_block { gateway:login() } }" }
    local request = { target = "/login?account=x", headers = { Authorization = write_basic("admin", "admin") } }
    local fresh, cached = unpack(log_of(one, request, request))
    assert.same({ "login", "request", "admin", "login", "cache", "admin" },
      { fresh.result, fresh.source, fresh.user, cached.result, cached.source, cached.user })
    assert.equal("/login", fresh.path)
    assert.same({ fresh.token_request_id }, list_sent_ids())
    assert.equal(fresh.key, cached.key)
    one:stop()
  end)

  local HOSTILE = { 'a"b', "a\\", "a\\\",\"x\",\"root", "j\195\188rgen", "\255\254", "{}", "%22", "a b", "<script>",
    ("long"):rep(500), "\226\128\168", "a\127b" }

  it("is JSON whatever name a user has, and whatever a client sends", function()
    for i, name in ipairs(HOSTILE) do
      local printable = not name:find "%c"
      bed.stub:set { users = { [name] = "pass-word" } }
      local request = bed:request(("/v2/a%d/manifests/1"):format(i), "GET",
        { Authorization = write_basic(name, "pass-word"), ["User-Agent"] = name, ["X-Request-Id"] = name })
      local line = log_of(gate, request)[1]
      assert.equal(printable and "fresh" or "invalid_credential", line.result, name)
      assert.is_nil(line.user:find(UNSAFE), line.user)
      if name == "j\195\188rgen" then assert.equal("j%C3%BCrgen", line.user) end
      if name == "a b" then assert.equal("a b", line.user) end
    end
    for _, name in ipairs(HOSTILE) do
      local target = "/v2/" .. name:gsub(" ", "") .. "/manifests/1"
      local line = log_of(gate, bed:request(target), bed:request("/v2/?" .. name:gsub(" ", "")))[1]
      assert.is_nil(line.scope:find(UNSAFE), line.scope)
    end
    check_strictly(gate)
  end)

  it("is JSON whatever the option 'scope' returns", function()
    local one = start { gateway = [[scope = function() return { 'a"b\\c', ("x"):rep(1500) } end]] }
    local line = log_of(one, bed:request "/v2/")[1]
    assert.equal("fresh", line.result)
    assert.matches("^a%%22b%%5Cc x+%.%.%.$", line.scope)
    one:stop()
  end)

  it("contains no credential and no token", function()
    bed.stub:set { users = { joe = "s3cret-word" } }
    log_of(gate, bed:request("/v2/a/manifests/1", "GET", { Authorization = write_basic("joe", "s3cret-word") }),
      bed:request("/v2/a/manifests/1", "GET", { Authorization = write_basic("joe", "wr0ng-word") }),
      bed:request "/v2/a/manifests/1", bed:request("/v2/?token=" .. bed.stub.id_token))
    local text = read_file(gate)
    local encoded = write_basic("joe", "s3cret-word"):sub(7)
    for _, words in ipairs { "s3cret", "wr0ng", "eyJ", encoded, bed.stub.id_token } do
      assert.is_nil(text:find(words, 1, true), words)
    end
  end)

  it("has keys against which no guess can be tested, and which stay the same over a reload", function()
    local server = start { gateway = [[retries = 0]] }
    local line = log_of(server, bed:request "/v2/tested/manifests/1")[1]
    local names = load.request(server.port, { target = "/dict" }).body
    local beginnings = {}
    for position = 1, #names - 3 do
      beginnings[("%02x%02x%02x%02x"):format(names:byte(position, position + 3))] = true
    end
    assert.is_nil(beginnings[line.key])
    local other = log_of(server, bed:request("/v2/tested/manifests/1", "GET",
      { Authorization = write_basic("admin", "admin") }))[1]
    assert.is_true(other.key ~= line.key)
    local workers = gateway_bed.await_workers(server, 2)
    server:reload()
    gateway_bed.await("new workers", function()
      for _, pid in ipairs(server:workers()) do
        if pid == workers[1] or pid == workers[2] then return false end
      end
      return #server:workers() == 2
    end)
    local later = log_of(server, bed:request "/v2/tested/manifests/1")[1]
    assert.same({ line.key, "cached" }, { later.key, later.result })
    -- another nginx has different ones
    local one = start { gateway = [[retries = 0]] }
    assert.is_true(log_of(one, bed:request "/v2/tested/manifests/1")[1].key ~= line.key)
    one:stop()
    server:stop()
  end)

  it("does nothing if no variable is declared, not even $icptoken_key", function()
    local http = support.configure { stub = bed.stub, upstream = bed.upstream }
    local one = nginx.start { http = http:gsub('set $icptoken_key "";', ""), workers = 1,
      main = "thread_pool icptoken threads=16;" }
    finally(function() one:stop() end)
    for _ = 1, 2 do assert.equal(200, load.request(one.port, bed:request "/v2/a/manifests/1").status) end
    assert.equal(401, load.request(one.port, { target = "/v2/" }).status)
    assert.not_matches("icptoken_key", one:log(), 1, true)
    assert.not_matches("%[error%]", one:log())
  end)

  it("sends no id without the option", function()
    local one = start { gateway = [[retries = 0]] }
    local line = log_of(one, bed:request "/v2/a/manifests/1")[1]
    assert.equal(line.request_id, line.token_request_id)
    assert.same({}, list_sent_ids())
    one:stop()
  end)
end)
