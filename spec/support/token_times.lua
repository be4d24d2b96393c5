-- How a client's tokens are used and renewed as time passes: rows that spec/token_spec.lua runs in one child process,
-- whose clocks these rows move (clock_shift.c). The clocks are stopped unless a row lets them run, so that limits are
-- exact to the millisecond however busy the machine is.

local assert = require "luassert"
local cjson = require "cjson"
local files = require "support.files"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"

local PATH, LOGIN_PATH = "/image-manager/api/v1/auth/token", "/idprovider/v1/auth/identitytoken"
-- A short time, as clocks are read in whole milliseconds.
local MOMENT = 0.002
-- A token of 60 s is returned for 54 s, and renewed from 40.8 s to 43.2 s on.
local MINUTE, RENEWED, ENDED = 60, 43.3, 54.1
local DAY = 86400

local stub
local wall, monotonic, boottime, stopped

local function set_clocks()
  testkit.shift_clocks(wall, monotonic, boottime, stopped)
end

local function reset_clocks()
  wall, monotonic, boottime, stopped = 0, 0, 0, false
  set_clocks()
  stopped = true
  set_clocks()
end

local function advance(seconds)
  wall, monotonic, boottime = wall + seconds, monotonic + seconds, boottime + seconds
  set_clocks()
end

local function jump_wall(seconds)
  wall = wall + seconds
  set_clocks()
end

-- The monotonic clock does not advance.
local function suspend(seconds)
  wall, boottime = wall + seconds, boottime + seconds
  set_clocks()
end

-- Calls f with running clocks and returns the seconds it took.
local function measure(f)
  stopped = false
  set_clocks()
  local started = testkit.monotonic()
  f()
  local elapsed = testkit.monotonic() - started
  stopped = true
  set_clocks()
  return elapsed
end

-- Makes an answer whose lifetime follows from expires_in only, as times in whole seconds could change during a spec.
-- It closes its connection, so that libcurl does not repeat a request that fails on a reused one.
local function answer(token, seconds)
  return { token = token, expires_in = seconds, issued_at = false, keep_alive = false }
end

local function always(order)
  order.times = "forever"
  return order
end

local function plan_only(...)
  stub:reset()
  stub:plan(...)
end

local function new_client(changes)
  local options = { url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH), id_token = stub.id_token,
    retries = 0, timeout = 20 }
  for name, value in pairs(changes or {}) do options[name] = value end
  if options.id_token_file or not options.id_token then options.id_token = nil end
  return assert(icptoken.new(options))
end

local function ask(client, source, name)
  local token, message, got = client:token()
  assert.is_table(token, message)
  assert.equal(source, got)
  assert.equal(name, token.token)
  return token
end

local function ask_in_vain(client, code)
  local token, message, got, details = client:token()
  assert.equal("nil", type(token))
  assert.equal(code, got, message)
  return details
end

-- A client that has t1 cached, with a lifetime of this many seconds; the endpoint then answers as ordered.
local function hold_token(seconds, order, changes)
  stub:plan(answer("t1", seconds))
  if order then stub:plan(order) end
  local client = new_client(changes)
  ask(client, "fresh", "t1")
  return client
end

local function assert_attempts(count, client)
  assert.equal(count, client:stats().refreshes)
end

-- Checks that a renewal fails, and that there is no other attempt during the pause.
local function assert_pause(client, seconds)
  local before = client:stats().refreshes
  ask(client, "stale", "t1")
  assert_attempts(before + 1, client)
  advance(seconds - MOMENT)
  for _ = 1, 3 do ask(client, "stale", "t1") end
  assert_attempts(before + 1, client)
  advance(MOMENT)
end

local rows = {}
local function row(name, body)
  rows[#rows + 1] = { name = name, body = body }
end

---- limits

for _, seconds in ipairs { 1, 5, 60, 1800, DAY } do
  local leeway, window = math.min(10, seconds / 10), math.min(300, seconds / 5)
  local usable = seconds - leeway

  row(("a token of %d s is cached until it is to be renewed, and then is renewed"):format(seconds), function()
    local client = hold_token(seconds, always(answer("t2", seconds)))
    advance(usable - 1.1 * window - MOMENT)
    ask(client, "cached", "t1")
    assert.equal(1, #stub:requests())
    advance(0.2 * window + 2 * MOMENT)
    ask(client, "fresh", "t2")
    ask(client, "cached", "t2")
    assert.equal(2, #stub:requests())
  end)

  row(("a token of %d s is returned until its leeway begins"):format(seconds), function()
    local client = hold_token(seconds, always { status = 503 })
    advance(usable - MOMENT)
    ask(client, "stale", "t1")
    advance(MOMENT)
    ask_in_vain(client, "server_error")
    plan_only(answer("t2", seconds))
    ask(client, "fresh", "t2")
  end)
end

row("a JWT is not returned past its exp, although Date is rounded down to a second", function()
  stub:plan({ expires_in = 5, issued_at = false, date = "Mon, 23 Nov 2026 10:00:00 GMT", keep_alive = false,
    claims = { iat = 1795428000, exp = 1795428005 } }, always { status = 503 })
  local client = new_client()
  assert.equal("fresh", (select(3, client:token())))
  advance(4) -- it may be 10:00:04.999 there
  ask_in_vain(client, "server_error")
end)

row("the time of renewal differs from client to client, by a tenth at most", function()
  local clients, first, last = {}, math.huge, -math.huge
  stub:plan(always(answer("t1", DAY)))
  for i = 1, 40 do
    clients[i] = new_client()
    local token = ask(clients[i], "fresh", "t1")
    local window = token.expires_at - 10 - token.refresh_at
    first, last = math.min(first, window), math.max(last, window)
  end
  assert.is_true(first >= 269 and last <= 331, ("%d … %d"):format(first, last))
  assert.is_true(last - first > 20, ("%d … %d"):format(first, last))
end)

row("a renewal is one attempt, whatever retries says", function()
  local client = hold_token(MINUTE, always { status = 503, keep_alive = false }, { retries = 3 })
  advance(RENEWED)
  ask(client, "stale", "t1")
  assert.equal(2, client:stats().attempts)
  assert.equal(2, #stub:requests())
end)

row("a renewal that returns the same token again is adopted, once", function()
  local client = hold_token(MINUTE, always(answer("t1", MINUTE)))
  local first = ask(client, "cached", "t1")
  advance(RENEWED)
  local second = ask(client, "fresh", "t1")
  assert.are_not.equal(first, second)
  for _ = 1, 5 do assert.equal(second, ask(client, "cached", "t1")) end
  advance(40)
  assert.equal(second, ask(client, "cached", "t1"))
  assert.equal(2, #stub:requests())
end)

row("a function is called for its ID token once per call, whatever happens to the token", function()
  local calls = 0
  local client = hold_token(MINUTE, always { status = 503 }, { id_token = function()
    calls = calls + 1
    return stub.id_token
  end })
  for _ = 1, 3 do ask(client, "cached", "t1") end
  assert.equal(4, calls)
  advance(RENEWED)
  for _ = 1, 3 do ask(client, "stale", "t1") end
  assert.equal(7, calls)
  assert.equal(2, #stub:requests())
end)

---- stale while valid

local function assert_survives(client, repair)
  local first = ask(client, "cached", "t1")
  local sent = client:stats().attempts
  advance(RENEWED)
  assert.equal(first, ask(client, "stale", "t1"))
  for _ = 1, 5 do ask(client, "stale", "t1") end
  assert_attempts(1, client)
  assert.is_true(client:stats().attempts <= sent + 1)
  advance(1 - MOMENT)
  ask(client, "stale", "t1")
  assert_attempts(1, client)
  advance(MOMENT)
  assert_pause(client, 2)
  assert_pause(client, 4)
  local stats = client:stats()
  assert.equal(1, stats.cache_hits)
  assert.equal(3, stats.refreshes)
  assert.equal(15, stats.stale)
  repair()
  ask(client, "fresh", "t2")
  ask(client, "cached", "t2")
  assert_attempts(4, client)
end

local function recover()
  plan_only(answer("t2", MINUTE))
end

-- Each: what the endpoint does, the order, how many requests of three attempts the stub receives.
local FAILING = {
  { "resets the connection", { raw = "", ["end"] = "reset" } },
  { "closes the connection", { raw = "", ["end"] = "close" } },
  { "breaks off its answer", { cut = 150, ["end"] = "abort" } },
  { "answers 500", { status = 500 } },
  { "answers 503", { status = 503 } },
  { "answers 429", { status = 429 } },
  { "answers 401", { status = 401 } },
  { "answers 403", { status = 403 } },
  { "answers 404", { status = 404 } },
  { "redirects", { redirect = "https://elsewhere.example/" } },
  { "answers with nothing", { status = 200, body = "" } },
  { "answers with garbage", { status = 200, body = "<html>busy</html>" } },
  { "answers without a token", { omit = { "token" } } },
  { "answers with too much", { endless = "body", bytes = 3e6 } },
  { "answers with an ended token", { claims = { iat_in = -100, exp_in = -10 } } },
}

for _, case in ipairs(FAILING) do
  row("a valid token outlives an endpoint that " .. case[1], function()
    case[2].keep_alive = false
    local client = hold_token(MINUTE, always(case[2]))
    assert_survives(client, function()
      assert.equal(4, #stub:requests())
      recover()
    end)
  end)
end

row("a valid token is returned while the ID token function has none", function()
  local id_token = stub.id_token
  local client = hold_token(MINUTE, nil, { id_token = function() return id_token, "away" end })
  id_token = nil
  assert_survives(client, function()
    assert.equal(1, #stub:requests())
    id_token = stub.id_token
    recover()
  end)
end)

row("a valid token is returned while the ID token file does not exist", function()
  local path = os.tmpname()
  local function write()
    local file = assert(io.open(path, "w"))
    file:write(stub.id_token)
    file:close()
  end
  write()
  local client = hold_token(MINUTE, nil, { id_token_file = path })
  os.remove(path)
  assert_survives(client, function()
    write()
    recover()
  end)
  os.remove(path)
end)

row("a valid token is returned while the endpoint fails, but not after its expiry", function()
  local other = stub_client.start()
  other:plan(answer("t1", MINUTE))
  local client = new_client { url = ("http://127.0.0.1:%d%s"):format(other.ports.http, PATH),
    id_token = other.id_token }
  ask(client, "fresh", "t1")
  other:stop()
  advance(RENEWED)
  for _, seconds in ipairs { 1, 2, 4 } do assert_pause(client, seconds) end
  advance(ENDED - RENEWED - 7)
  ask_in_vain(client, "connect")
  ask_in_vain(client, "connect")
end)

row("an endpoint that does not answer costs one limited wait, not one for each call", function()
  timing.try(function(scale) -- a request takes some time, too
    stub:reset()
    local limit = math.min(5, 0.3 * scale) -- an attempt may take at most half of the token's last 10.7 s
    local client = hold_token(MINUTE, always { delay = { before = 600 } }, { timeout = limit })
    advance(RENEWED)
    local elapsed = measure(function() ask(client, "stale", "t1") end)
    assert.is_true(elapsed >= 0.9 * limit, ("took %.3f s"):format(elapsed))
    for _ = 1, 1000 do ask(client, "stale", "t1") end
    assert_attempts(1, client)
    assert.equal(2, #stub:requests())
  end)
end)

-- The ways to have an ID token; what each returns are options of a client and the path of a file, or nil.
local SOURCES = {
  id_token = function() return {} end,
  id_token_file = function()
    local path = os.tmpname()
    files.write(path, stub.id_token)
    return { id_token = false, id_token_file = path }, path
  end,
  ["id_token function"] = function()
    local id_token = stub.id_token
    return { id_token = function() return id_token end }
  end,
}

for source, make in pairs(SOURCES) do
  row(("an attempt to renew takes no more than half of what is left (%s)"):format(source), function()
    local options, path = make()
    timing.try(function(left)
      stub:reset()
      options.timeout = 2 * left -- a wait of that length must not end
      local client = hold_token(1000, always { delay = { before = 600 } }, options)
      advance(990 - left)
      local elapsed = measure(function() ask(client, "stale", "t1") end)
      assert.is_true(elapsed >= 0.45 * left and elapsed < 0.95 * left, ("took %.3f of %g s"):format(elapsed, left))
    end)
    if path then os.remove(path) end
  end)
end

---- pauses

row("the pause doubles from 1 s to 60 s", function()
  local client = hold_token(DAY, always { status = 503, keep_alive = false })
  advance(DAY - 10 - 270 + 1)
  for attempt, seconds in ipairs { 1, 2, 4, 8, 16, 32, 60, 60 } do
    assert_pause(client, seconds)
    assert.equal(attempt + 1, #stub:requests())
  end
end)

row("a success ends the growth of the pause", function()
  local client = hold_token(DAY, always { status = 503, keep_alive = false })
  advance(DAY - 10 - 270 + 1)
  for _, seconds in ipairs { 1, 2, 4 } do assert_pause(client, seconds) end
  plan_only(answer("t1", DAY), always { status = 503 })
  ask(client, "fresh", "t1")
  advance(DAY - 10 - 270 + 1)
  assert_pause(client, 1)
  assert_pause(client, 2)
end)

for _, case in ipairs { { 503, "7" }, { 429, "7" }, { 500, "Mon, 23 Nov 2026 10:00:07 GMT" } } do
  row(("the pause is as long as Retry-After: %s of a %d says"):format(case[2], case[1]), function()
    local client = hold_token(DAY, always { status = case[1], date = "Mon, 23 Nov 2026 10:00:00 GMT",
      headers = { { "Retry-After", case[2] } } })
    advance(DAY - 10 - 270 + 1)
    assert_pause(client, 7)
    assert_pause(client, 7)
    plan_only(answer("t2", DAY))
    ask(client, "fresh", "t2")
  end)
end

row("a Retry-After beyond the token's expiry does not delay the requests after it", function()
  local client = hold_token(DAY, { status = 503, headers = { { "Retry-After", "90000" } } })
  stub:plan(always(answer("t2", DAY)))
  advance(DAY - 10 - 270 + 1)
  ask(client, "stale", "t1")
  advance(268)
  ask(client, "stale", "t1")
  assert.equal(2, #stub:requests())
  advance(2)
  ask(client, "fresh", "t2")
end)

---- after the expiry

row("after its expiry each call returns an error, until the first success returns a new token", function()
  local client = hold_token(MINUTE, always { status = 503 })
  advance(ENDED)
  for asked = 1, 3 do
    assert.equal(503, ask_in_vain(client, "server_error").status)
    assert.equal(asked + 1, #stub:requests())
  end
  assert.equal(3, client:stats().failures.server_error)
  assert_attempts(0, client)
  recover()
  ask(client, "fresh", "t2")
  ask(client, "cached", "t2")
end)

row("an error is not cached either if there was no token yet", function()
  stub:plan({ status = 500 }, { status = 403 }, answer("t1", MINUTE))
  local client = new_client()
  ask_in_vain(client, "server_error")
  ask_in_vain(client, "forbidden")
  ask(client, "fresh", "t1")
end)

---- credentials that were refused

local PAUSES = { 1, 2, 4, 8, 16, 32, 60, 60 }
local REFUSED = { status = 401, body = '{"errors":[{"code":"UNAUTHORIZED","message":"no"}]}' }

local function refuse_always(path)
  REFUSED.path = path
  stub:plan(always(REFUSED))
end

-- Fails, and tries again: the credential is sent only after the pause. call: makes the request. n: how often the
-- credential was sent to that path before.
local function assert_refusals(client, path, call, pauses, n)
  for _, pause in ipairs(pauses) do
    for again = 0, 3 do
      local token, message, code, details = call(client)
      assert.equal("nil", type(token))
      assert.equal("unauthorized", code)
      assert.equal(401, details.status)
      assert.equal(again == 0, details.attempts > 0)
      assert.equal(path, details.url:match "^%l+://[^/]+(.*)$")
      assert.is_false(details.retryable)
      assert.equal(again > 0, message:find("it is not sent again for", 1, true) ~= nil)
      if again > 0 then assert.matches(("again for %d s"):format(pause), message, 1, true) end
      if path == PATH then assert.same({ { code = "UNAUTHORIZED", message = "no" } }, details.errors) end
    end
    n = n + 1
    assert.equal(n, stub:count(path))
    advance(pause - MOMENT)
    call(client)
    assert.equal(n, stub:count(path))
    advance(MOMENT)
  end
  return n
end

local function ask_for_token(client) return client:token() end
local function ask_for_fetch(client) return client:fetch() end
local function ask_for_all(client)
  local tokens, errors, code, details = client:fetch_all { {}, {}, {} }
  if not tokens then return nil, errors, code, details end
  assert.same({ false, false, false }, tokens)
  for n = 2, 3 do assert.equal(0, errors[n].attempts) end
  return nil, errors[1].message, errors[1].code, errors[1]
end

local function with_password()
  return { id_token = false, username = stub.username, password = stub.password }
end

local function with_login(password)
  return { id_token = false, login = { username = stub.username, password = password } }
end

row("an ID token that was refused is not sent again for a pause", function()
  refuse_always(PATH)
  assert_refusals(new_client(), PATH, ask_for_token, PAUSES, 0)
end)

row("a password that was refused is not sent again for a pause, with any method", function()
  refuse_always(PATH)
  for _, call in ipairs { ask_for_token, ask_for_fetch, ask_for_all } do
    local before = stub:count(PATH)
    assert_refusals(new_client(with_password()), PATH, call, PAUSES, before)
  end
end)

row("a login that was refused is not repeated for a pause, with any method", function()
  for _, call in ipairs { ask_for_token, ask_for_fetch } do
    local before = stub:count(LOGIN_PATH)
    assert_refusals(new_client(with_login "wrong password"), LOGIN_PATH, call, PAUSES, before)
  end
  assert.equal(0, stub:count(PATH))
end)

row("a login whose ID tokens are refused is not repeated for a pause", function()
  refuse_always(PATH)
  local client = new_client(with_login(stub.password))
  ask_in_vain(client, "unauthorized")
  for n, pause in ipairs { 1, 2, 4, 8, 16, 32, 60, 60 } do
    for _ = 1, 3 do ask_in_vain(client, "unauthorized") end
    assert.equal(n, stub:count(LOGIN_PATH))
    advance(pause)
    ask_in_vain(client, "unauthorized")
  end
end)

row("a refused credential is tried again after the pause, and then forgotten", function()
  for _, changes in ipairs { {}, with_password(), with_login(stub.password) } do
    stub:reset()
    local first, second = answer("t1", MINUTE), answer("t2", MINUTE)
    first.path, second.path = PATH, PATH
    stub:plan({ status = 401, path = changes.login and LOGIN_PATH or PATH }, first,
      { status = 401, path = PATH, times = changes.login and 2 or 1 }, second)
    local client = new_client(changes)
    ask_in_vain(client, "unauthorized")
    advance(1)
    ask(client, "fresh", "t1")
    client:invalidate "t1"
    ask_in_vain(client, "unauthorized")
    advance(1) -- and not 2
    ask(client, "fresh", "t2")
  end
end)

row("a changed credential is sent at once", function()
  stub:plan({ status = 401 }, answer("t1", MINUTE))
  local name = "first-token"
  local client = new_client { id_token = function() return name end }
  ask_in_vain(client, "unauthorized")
  ask_in_vain(client, "unauthorized")
  name = stub.id_token
  ask(client, "fresh", "t1")
  assert.equal(2, #stub:requests())
end)

row("a changed file of the ID token is read at once", function()
  stub:plan({ status = 401 }, answer("t1", MINUTE))
  local path = os.tmpname()
  files.write(path, "first-token")
  local client = new_client { id_token_file = path }
  ask_in_vain(client, "unauthorized")
  ask_in_vain(client, "unauthorized")
  files.write(path, stub.id_token)
  ask(client, "fresh", "t1")
  os.remove(path)
end)

row("a refused credential does not keep an old token from being returned", function()
  local client = hold_token(MINUTE, always { status = 401 })
  advance(RENEWED)
  for _ = 1, 3 do ask(client, "stale", "t1") end
  assert.equal(2, #stub:requests())
end)

row("the credential of a request is sent each time, and does not end the pause of the client's own", function()
  stub:plan { status = 401, times = 5 }
  local client = new_client(with_password())
  ask_in_vain(client, "unauthorized")
  for _ = 1, 3 do
    assert.equal("unauthorized", (select(3, client:fetch { username = "ann", password = "also wrong" })))
  end
  ask_in_vain(client, "unauthorized")
  assert.equal(4, #stub:requests())
end)

row("an ID token that was refused is still sent by fetch and fetch_all", function()
  stub:plan({ status = 401, times = 2 }, answer("t1", MINUTE), answer("t2", MINUTE))
  local client = new_client()
  ask_in_vain(client, "unauthorized")
  assert.equal("unauthorized", (select(3, client:fetch())))
  assert(client:fetch())
  assert(client:fetch_all { {} })
end)

row("a password that was not accepted yet is sent once, and then for many requests at once", function()
  stub:plan(always(REFUSED))
  REFUSED.path = nil
  local client = new_client(with_password())
  local requests = {}
  for n = 1, 40 do requests[n] = { scope = "a:b" .. n .. ":c" } end
  local tokens, errors = client:fetch_all(requests)
  for n = 1, 40 do
    assert.is_false(tokens[n])
    assert.equal("unauthorized", errors[n].code)
  end
  assert.equal(1, #stub:requests())
  advance(1)
  plan_only(always(answer("t1", MINUTE)))
  assert.is_nil((select(2, client:fetch_all(requests))))
  assert.equal(40, #stub:requests())
end)

---- clocks

for _, seconds in ipairs { DAY, -DAY } do
  row(("a wall clock set by %d s drops no good token"):format(seconds), function()
    local client = hold_token(3600, always(answer("t2", 3600)))
    jump_wall(seconds)
    ask(client, "cached", "t1")
    advance(3200)
    ask(client, "cached", "t1")
    assert.equal(1, #stub:requests())
    advance(150)
    ask(client, "fresh", "t2")
  end)

  row(("a wall clock set by %d s keeps no ended token"):format(seconds), function()
    local client = hold_token(3600, always { status = 503 })
    jump_wall(seconds)
    advance(3589)
    ask(client, "stale", "t1")
    advance(2)
    ask_in_vain(client, "server_error")
  end)
end

row("a token that expired while the machine was suspended is not returned", function()
  local client = hold_token(3600, always { status = 503 })
  suspend(3200)
  ask(client, "cached", "t1")
  suspend(389)
  ask(client, "stale", "t1")
  suspend(2)
  ask_in_vain(client, "server_error")
end)

---- invalidate

row("invalidate with an old token does not remove the new one", function()
  local client = hold_token(MINUTE, always(answer("t2", MINUTE)))
  advance(RENEWED)
  ask(client, "fresh", "t2")
  assert.is_false(client:invalidate "t1")
  ask(client, "cached", "t2")
  assert.is_true(client:invalidate "t2")
  assert.is_false(client:invalidate "t2")
  ask(client, "fresh", "t2")
end)

row("a token that was invalidated is not returned as stale", function()
  local client = hold_token(MINUTE, always { status = 503 })
  advance(RENEWED)
  ask(client, "stale", "t1")
  assert.is_true(client:invalidate "t1")
  ask_in_vain(client, "server_error")
end)

row("a token that expires during a failing renewal is not returned as stale", function()
  local in_vain = false
  local client = hold_token(MINUTE, nil, { id_token = function()
    if not in_vain then return stub.id_token end
    advance(MINUTE - RENEWED)
    return nil, "away"
  end })
  advance(RENEWED)
  in_vain = true
  ask_in_vain(client, "invalid_credential")
end)

row("a token that is invalidated during its renewal is not returned as stale", function()
  local client
  local in_vain = false
  client = hold_token(MINUTE, nil, { id_token = function()
    if not in_vain then return stub.id_token end
    client:invalidate "t1"
    return nil, "away"
  end })
  advance(RENEWED)
  in_vain = true
  ask_in_vain(client, "invalid_credential")
end)

local token_times = { rows = rows }

local function run_row(each)
  stub:reset()
  reset_clocks()
  local ok, problem = xpcall(each.body, function(problem)
    return debug.traceback(type(problem) == "table" and tostring(problem.message or problem) or problem, 2)
  end)
  collectgarbage()
  io.stdout:write(cjson.encode { name = each.name, ok = ok, problem = ok and "" or problem }, "\n")
  io.stdout:flush()
end

--- Runs all rows and prints a line of JSON { name =, ok =, problem = } for each.
function token_times.run()
  testkit.unsetenv "LD_PRELOAD" -- the stub lives in true time
  stub = stub_client.start()
  for _, each in ipairs(rows) do run_row(each) end
  stub:stop()
end

return token_times
