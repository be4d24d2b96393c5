-- Hostile data: headers and targets that are crafted to take time, and records of the dict that the gateway did not
-- write. They must not cause a crash, a stall, or an injected header.

local cases = require "support.cases"
local ffi = require "ffi"
local files = require "support.files"
local gateway_bed = require "support.gateway_bed"
local gateway_probe = require "support.gateway_probe"
local load = require "support.load"

local TARGET = "/v2/a/manifests/1"
-- ticks of the clock in /proc; see proc(5)
local TICKS_A_SECOND = 100

local function read_cpu_seconds(pids)
  local ticks = 0
  for _, pid in ipairs(pids) do
    local user, system = files.read(("/proc/%d/stat"):format(pid)):match "^.*%)%s%S%s(.*)$":match(("%S+ "):rep(10)
      .. "(%d+) (%d+)")
    ticks = ticks + user + system
  end
  return ticks / TICKS_A_SECOND
end

describe("a hostile request", function()
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start()
  end)
  teardown(function() gateway_bed.close(bed) end)

  local function assert_cheap(requests)
    local pids = gateway_bed.await_workers(gate, 2)
    local before = read_cpu_seconds(pids)
    for _, request in ipairs(requests) do
      local answer = load.request(gate.port, request)
      assert.is_truthy(answer.status, answer.problem)
    end
    assert.is_true(read_cpu_seconds(pids) - before < 0.5)
    assert.same(pids, gate:workers())
  end

  -- The CPU time, in seconds, that the workers need for 100 of these requests.
  local function measure(request)
    local pids = gateway_bed.await_workers(gate, 2)
    local before = read_cpu_seconds(pids)
    local answers = load.run(gate.port, 100, function() return request end, 1)
    for _, answer in ipairs(answers) do assert.is_truthy(answer.status, answer.problem) end
    return read_cpu_seconds(pids) - before
  end

  -- Compares requests with a plain one of the same length. On a busy machine any of them may take longer for a while,
  -- but an expensive one takes longer each time.
  local function assert_as_cheap(plain, hostile)
    for _, request in ipairs(hostile) do
      local seconds, control
      for _ = 1, 5 do
        control, seconds = measure(plain), measure(request)
        if seconds < 3 * control + 0.05 then break end
      end
      assert.is_true(seconds < 3 * control + 0.05, ("%.2f s, and a plain one %.2f s"):format(seconds, control))
    end
  end

  for _, who in ipairs { "anybody", "a stranger" } do
    it("takes as long as a plain one of its length from " .. who .. ", whatever its query", function()
      local function make(query)
        local request = bed:request(TARGET .. "?" .. query)
        if who == "a stranger" then request.headers.Authorization = nil end
        return request
      end
      assert_as_cheap(make(("x"):rep(30000)), { make(("%aaa&"):rep(6000)), make(("from&"):rep(6000)),
        make(("%66rom=%62"):rep(3000)), make(("x&"):rep(15000) .. "from=B"), make(("from=B&mount=C&"):rep(2000)),
        make(("fro&"):rep(7500)), make("from=" .. ("%62"):rep(9000)), make("from=" .. ("b/"):rep(15000)) })
    end)
  end

  it("takes as long as a plain one of its length, whatever its Authorization", function()
    local function make(value) return bed:request(TARGET, "GET", { Authorization = value }) end
    bed.stub:plan { status = 401, times = "forever" }
    finally(function() bed.stub:reset() end)
    assert_as_cheap(make("Digest " .. ("x"):rep(31000)), { make("bearer a" .. ("\t"):rep(31000)),
      make("basic a" .. ("\t"):rep(31000)), make("bearer a" .. ("\t "):rep(15500) .. "b"),
      make("bearer " .. ("a\t"):rep(15500)) })
  end)

  it("does not keep a worker busy with its Authorization", function()
    local requests = {}
    for i, value in ipairs { "bearer a" .. (" "):rep(31000) .. "b", "Bearer  a" .. (" "):rep(31000) .. "b",
      "basic a" .. (" "):rep(31000) .. "b", "bearer" .. (" "):rep(31000) .. "b c", "Bearer  " .. ("a "):rep(15000),
      "Bearer " .. ("="):rep(31000) .. "a", "bearer  " .. ("a="):rep(15000), ("a"):rep(31000), ("a "):rep(15000),
      "Basic " .. ("A"):rep(30000) .. "!", "Basic " .. ("OjpB"):rep(7000),
      "Bearer " .. cases.make_jwt(("["):rep(20000)), "Bearer " .. cases.make_jwt(('{"a":'):rep(4000)) } do
      requests[i] = bed:request(TARGET, "GET", { Authorization = value })
    end
    bed.stub:plan { status = 401, times = "forever" }
    finally(function() bed.stub:reset() end)
    assert_cheap(requests)
  end)

  it("does not keep a worker busy with its target", function()
    local requests = {}
    for i, target in ipairs { "/v2/" .. ("a-"):rep(1000), "/v2/" .. ("a/"):rep(1000) .. "A",
      "/v2/" .. ("a/manifests/"):rep(160) .. "A/", "/v2/" .. ("a/blobs/uploads/"):rep(120) .. "/",
      "/v2/" .. ("a__"):rep(600) .. "/manifests/1", "/v2/" .. ("%3A"):rep(600), "/v2/a/manifests/" .. ("%3A"):rep(9000),
      "/v2/A/manifests/1?" .. ("from=&"):rep(5000), TARGET .. "?" .. ("&"):rep(31000) .. "from=B",
      TARGET .. "?" .. ("%66"):rep(10000) .. "=&from=" .. ("%62"):rep(500), TARGET .. "?from=" .. ("b-"):rep(15000),
      TARGET .. "?from=" .. ("+"):rep(30000) .. "&", TARGET .. "?" .. ("x&"):rep(15000) .. "from=B",
      TARGET .. "?" .. ("%aaa&"):rep(6000) .. "from=B", TARGET .. "?" .. ("fromm&"):rep(5000) .. "from=B" } do
      requests[i] = bed:request(target)
    end
    assert_cheap(requests)
  end)
end)

describe("one credential for thousands of repositories #deep", function()
  local FLIGHTS, SECONDS = 2000, 3
  local bed, gate

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { workers = 1, gateway = "timeout = 600, max_queue = " .. 2 * FLIGHTS,
      locations = gateway_probe.LOCATIONS }
  end)
  teardown(function() gateway_bed.close(bed) end)

  it("uses a small share of a worker's time while the first answer is awaited", function()
    local pids, connections, share = gateway_bed.await_workers(gate, 1), {}, nil
    bed.stub:plan { status = 401, times = "forever", ["end"] = "hold", delay = { before = 600 } }
    load.together(function()
      for i = 1, FLIGHTS do
        connections[i] = load.send(gate.port, { target = ("/v2/a%d/manifests/1"):format(i),
          headers = { Authorization = "Bearer stranger" } })
      end
      gateway_bed.await("the flights", function()
        local _, waiting = gateway_probe.count_clients(gate.port)
        return waiting >= FLIGHTS and gateway_probe.read_metric(gate.port, "icptoken_queued") == 0
      end)
      local cpu, began = read_cpu_seconds(pids), load.read_time()
      load.sleep(SECONDS)
      share = (read_cpu_seconds(pids) - cpu) / (load.read_time() - began)
      for _, connection in ipairs(connections) do connection:close() end
    end)
    assert.is_true(share < 0.3, ("%.2f"):format(share))
  end)
end)

-- Locations for a spec: X-Name names a record in hex. They put the body there, alone in the dict, as it is or as
-- something else than a string (?as=); put it there as the text of a record of the store's, with an hour or ?life=
-- seconds to live and a mark (?mark=, in seconds from now); give the names of the endpoint and of the records that
-- stand for tokens.
local DICT_ACCESS = [[
  client_body_buffer_size 2m;
  set_by_lua_block $record_name {
    local name = ngx.var.http_x_name
    return name and name:gsub("%x%x", function(digits) return string.char(tonumber(digits, 16)) end)
  }
  location = /put {
    content_by_lua_block {
      ngx.req.read_body()
      local dict, as, name = ngx.shared.icptoken, ngx.var.arg_as, ngx.var.record_name
      dict:flush_all()
      if as == "list" then return ngx.print(dict:lpush(name, "x")) end
      local value = ngx.req.get_body_data() or ""
      if as == "number" then value = tonumber(value) elseif as == "boolean" then value = value == "true" end
      ngx.print(tostring(dict:set(name, value)))
    }
  }
  location = /record {
    content_by_lua_block {
      ngx.req.read_body()
      local now = require("icptoken.gateway.clock").now()
      local mark, life = tonumber(ngx.var.arg_mark) or 3600, tonumber(ngx.var.arg_life) or 3600
      local store = require("icptoken.gateway.store").new(ngx.shared.icptoken, print)
      ngx.print(tostring(store:put_token(ngx.var.record_name, ngx.req.get_body_data() or "", now + mark, now + life)))
    }
  }
  location = /keys {
    content_by_lua_block {
      local function write_hex(name)
        ngx.print((name:gsub(".", function(byte) return ("%02x"):format(byte:byte()) end)), "\n")
      end
      write_hex(gateway.target.key)
      for _, name in ipairs(ngx.shared.icptoken:get_keys(0)) do
        if #name == 32 then write_hex(name) end
      end
    }
  }
]]

-- Bytes that are not a valid record.
local function list_garbage()
  local list = { "" }
  for length = 1, 40 do
    local bytes = {}
    for i = 1, length do bytes[i] = string.char(math.random(0, 255)) end
    list[#list + 1] = table.concat(bytes)
  end
  for _, byte in ipairs { "\0", "\255", "\127", "\r", "\n", " " } do list[#list + 1] = byte:rep(100) end
  -- numbers that cannot be compared, or whose bits have a meaning for LuaJIT
  local numbers = {}
  for _, number in ipairs { math.huge, -math.huge, 0 / 0, 1e308, -1, 5e-324 } do
    numbers[#numbers + 1] = ffi.string(ffi.new("double[1]", number), 8)
  end
  for high = 0xf8, 0xff do
    for _, low in ipairs { "\0\0\0\0\0\0", "\65\65\65\65\0\0", "\1\0\0\0\0\0", ("\255"):rep(6) } do
      numbers[#numbers + 1] = low .. string.char(high) .. "\255"
    end
  end
  local forever = ffi.string(ffi.new("double[1]", math.huge), 8)
  for _, number in ipairs(numbers) do
    list[#list + 1] = number .. number .. "{}"
    list[#list + 1] = forever .. number
  end
  return list
end

describe("a record of the dict", function()
  local bed, gate, endpoint_name, key_name, workers
  local log_length = 0

  -- Names are a letter and hex digits; only the digits are converted.
  local function write(target, letters, digits, body)
    local name = letters:gsub(".", function(letter) return ("%02x"):format(letter:byte()) end) .. digits
    local answer = load.request(gate.port, { method = "POST", target = target, headers = { ["X-Name"] = name },
      body = body })
    assert.is_true(answer.body == "true" or answer.body == "1", answer.body)
  end

  local function ask(headers)
    return load.request(gate.port, bed:request(TARGET, "GET", headers))
  end

  -- The names of the endpoint's records and of the key's of TARGET, without their first letters.
  local function find_names()
    load.request(gate.port, { target = "/empty" })
    assert.equal(200, ask().status)
    return load.request(gate.port, { target = "/keys" }).body:match "^(%x+)\n(%x+)\n$"
  end

  setup(function()
    bed = gateway_bed.open()
    gate = bed:start { gateway = "timeout = 5", locations = DICT_ACCESS, dict = "16m" }
    endpoint_name, key_name = find_names()
    workers = gateway_bed.await_workers(gate, 2)
    math.randomseed(os.time())
  end)
  teardown(function() gateway_bed.close(bed) end)
  before_each(function()
    bed.stub:reset()
    load.request(gate.port, { target = "/empty" })
  end)
  after_each(function()
    assert.same(workers, gate:workers())
    local log = gate:log():sub(log_length + 1)
    log_length = log_length + #log
    for _, words in ipairs { "[alert]", "[crit]", "[emerg]", "runtime error", "internal error",
      "\nX-Injected" } do
      local at = log:find(words, 1, true)
      if at then error(log:sub(at, at + 600), 0) end
    end
  end)

  local function assert_own_token(answer, what)
    assert.equal(200, answer.status, what)
    assert.is_nil(answer.headers["x-injected"])
    assert.equal("repository:a:pull", gateway_bed.read_scopes(answer), what)
    assert.is_nil(gateway_bed.read_echo(answer).headers["x-injected"], what)
  end

  -- Checks that this is a valid answer of the gateway itself.
  local function assert_error(answer, what)
    assert.is_true(answer.status >= 400, what)
    assert.is_truthy(gateway_bed.read_error(answer), what .. answer.body)
    assert.is_nil(answer.headers["x-injected"], what)
    local retry_after = answer.headers["retry-after"]
    assert.is_true(retry_after == nil or retry_after:find "^%d+$" ~= nil, what .. (retry_after or ""))
  end

  -- the kinds of records, by their first letter
  for kind, letter in pairs { token = "", lock = "l", refusal = "f" } do
    it(("that is not a valid %s does no harm in its place"):format(kind), function()
      for i, value in ipairs(list_garbage()) do
        write("/put", letter, key_name, value)
        assert_own_token(ask(), ("garbage %d: %q"):format(i, value:sub(1, 60)))
      end
    end)

    it(("that is a number, a boolean or a list does no harm in place of a %s"):format(kind), function()
      for as, value in pairs { number = "17", boolean = "true", list = "" } do
        write("/put?as=" .. as, letter, key_name, value)
        assert_own_token(ask(), as)
      end
    end)
  end

  it("in place of a token is sent in no header unless it has the form of a token", function()
    for _, text in ipairs { "", "Bearer a\r\nX-Injected: b", "Bearer a\nX-Injected: b", "Bearer a\r", "Bearer a\n",
      "Bearer a\0", "Bearer a b", "Bearer ", "Bearer", "bearer a", "Basic a", "a", " Bearer a", "Bearer  a", "Bearer =",
      "Bearer a=b", "Bearer \195\169", "Bearer a,b", "Bearer a;b", "\r\nX-Injected: b",
      "Bearer a\r\n\r\nGET /v2/b HTTP/1.1", "Bearer " .. ("a"):rep(1000) .. "\n" } do
      write("/record", "", key_name, text)
      assert_own_token(ask(), ("%q"):format(text))
    end
  end)

  -- the text of a refusal or a report, which is its code; and the mark, which is the seconds of Retry-After
  for _, row in ipairs {
    { "bogus" }, { "" }, { "cached" }, { "ok" }, { "__index" }, { "forbidden " }, { "forbidden\0" }, { "1" }, { "{}" },
    { "a\r\nX-Injected: b" }, { "rate_limited\r\nX-Injected: b" }, { '{"code":"forbidden"}' }, { ("x"):rep(5000) },
    { "rate_limited", 1e9 }, { "rate_limited", 1e300 }, { "rate_limited", -1e300 }, { "rate_limited", "inf" },
    { "queue_full", 0.001 }, { "server_error", 4e9 }, { "timeout" }, { "name_invalid" }, { "method_not_allowed" },
    { "internal" }, { "no_credential" },
  } do
    local text, mark = row[1], row[2]
    local name = ("%q, %s"):format(text:sub(1, 40), mark)

    it("that is an impossible refusal causes a valid error answer, or none: " .. name, function()
      write("/record?mark=" .. (mark or 0), "f", key_name, text)
      local answer = ask()
      if answer.status ~= 200 then assert_error(answer, text) end
    end)

    it("that is an impossible report causes a valid error answer, or none: " .. name, function()
      write("/record", "l", key_name, "x")
      write("/record?mark=" .. (mark or 0), "rx", "", text)
      local answer = ask()
      if answer.status ~= 200 then assert_error(answer, text) end
    end)
  end

  for _, owner in ipairs { "", "x", ":", "1", "-1:1", "0:1", "1e9:1", "0x1:1", "4294967295:1", "4294967296:1",
    "2147483648:1", "99999999999999999999:1", "4194305:1", "x\r\nX-Injected: b" } do
    it(("that is a lock without a holder does not block a request: %q"):format(owner), function()
      write("/record?life=8", "l", key_name, owner)
      assert_own_token(ask(), owner)
    end)
  end

  it("that is a lock for longer than any token request takes does not block a request", function()
    write("/record", "l", key_name, "1:1")
    assert_own_token(ask())
  end)

  -- The number of renewals that are done, with all their attempts.
  local function count_renewals()
    local text, sum = load.request(gate.port, { target = "/metrics" }).body, 0
    for count in text:gmatch 'icptoken_fetch_results_total{[^}]*class="renewal"[^}]*} (%d+)' do sum = sum + count end
    return sum
  end

  -- A token that is valid and due for renewal at once.
  local function put_renewable()
    local jwt = gateway_bed.read_echo(ask()).headers.authorization
    write("/record?mark=-1", "", key_name, jwt)
  end

  it("that is an impossible pause does not affect a renewal", function()
    for _, name in ipairs { key_name, endpoint_name } do
      for _, text in ipairs { "", "x", "nan", "-nan", "inf", "1e999", "-1e999", "-5", "0x10", "1e5", "\r\n",
        ("9"):rep(400) } do
        for _, status in ipairs { 500, 401, 200 } do
          put_renewable()
          write("/record?mark=-1", "p", name, text)
          local renewals = count_renewals()
          if status ~= 200 then bed.stub:plan { status = status } end
          assert_own_token(ask(), text)
          gateway_bed.await("the renewal", function() return count_renewals() > renewals end)
          assert_own_token(ask(), text)
          load.request(gate.port, { target = "/empty" })
          bed.stub:reset()
        end
      end
    end
  end)

  it("that is an impossible state of the endpoint does not affect the log", function()
    for _, text in ipairs { "", "x", "ok ", "\r\nX-Injected: b", "%s%d", "\0", ("x"):rep(5000) } do
      write("/put", "s", endpoint_name, text)
      assert_own_token(ask(), text)
    end
    for as, value in pairs { number = "17", boolean = "false", list = "" } do
      write("/put?as=" .. as, "s", endpoint_name, value)
      assert_own_token(ask(), as)
    end
  end)

  it("that is garbage does not affect observe", function()
    local refusal = { ["X-Test-Status"] = "401", ["X-Test-Challenge"] = 'Bearer realm="a",error="invalid_token"' }
    for _, value in ipairs(list_garbage()) do
      write("/put", "d", key_name, value)
      local answer = ask(refusal)
      assert.equal(401, answer.status)
      assert.equal('Basic realm="IBM Cloud Private"', answer.headers["www-authenticate"])
    end
  end)
end)
