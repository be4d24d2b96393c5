-- icptoken.challenge: what a registry asks for in its WWW-Authenticate header, and that a token for it is accepted.

local cases = require "support.cases"
local http = require "socket.http"
local icptoken = require "icptoken"
local registry_server = require "support.registry"
local stub_client = require "stub.client"

local slow = os.getenv "ICPTOKEN_VALGRIND" or os.getenv "ICPTOKEN_SANITIZED"
local MEGABYTE = 2 ^ 20

local function read(value)
  local challenge = assert(icptoken.challenge(value))
  assert.is_nil(getmetatable(challenge))
  return challenge
end

local function refuse(value)
  local message, details = cases.check_failure("invalid_response", {}, icptoken.challenge(value))
  assert.is_false(details.retryable)
  assert.equal(0, details.attempts)
  assert.is_true(#message < 200)
  return message
end

describe("a challenge #short", function()
  local full = { realm = "https://a/t", service = "s", scope = "repository:a/b:pull,push" }
  local short = { realm = "a", service = "b" }

  -- each: what, the value, the table
  for _, case in ipairs {
    { "as a registry writes it", [[Bearer realm="https://a/t",service="s",scope="repository:a/b:pull,push"]], full },
    { "with an error", [[Bearer realm="a",service="b",error="invalid_token"]],
      { realm = "a", service = "b", error = "invalid_token" } },
    { "in another order", [[Bearer error="e",scope="c",service="b",realm="a"]],
      { realm = "a", service = "b", scope = "c", error = "e" } },
    { "with its scheme in small letters", [[bearer realm="a",service="b"]], short },
    { "with its scheme in capitals", [[BEARER realm="a",service="b"]], short },
    { "with names in any case", [[BeArEr Realm="a",SERVICE="b"]], short },
    { "without quotes", "Bearer realm=a,service=b", short },
    { "with spaces behind commas", [[Bearer realm="a", service="b"]], short },
    { "with white space wherever it is permitted", "\t Bearer \t realm \t=\t \"a\" \t,\t service = b \t", short },
    { "with empty elements", [[, ,Bearer realm="a",, ,	,service="b",,]], short },
    { "with a comma at once behind the scheme", [[Bearer ,realm="a",service="b"]], short },
    { "without parameters", "Bearer", {} },
    { "without parameters among others", "Basic realm=x, Bearer, Negotiate", {} },
    { "with unknown parameters", [[Bearer x="1",realm="a",charset=UTF-8,service="b",realm2="c"]], short },
    { "with empty values", [[Bearer realm="",service=""]], { realm = "", service = "" } },
    { "with escaped quotes", [[Bearer realm="say \"a\", service=\"c\"",service="b"]],
      { realm = [[say "a", service="c"]], service = "b" } },
    { "with escaped backslashes", [[Bearer realm="\\",service="\\\"\\"]], { realm = [[\]], service = [[\"\]] } },
    { "with escapes that need not be", [[Bearer realm="\a",service="\b"]], short },
    { "with commas and equals signs in quotes", [[Bearer realm="a,b=c, Basic x",service="=,="]],
      { realm = "a,b=c, Basic x", service = "=,=" } },
    { "with spaces in quotes", [[Bearer realm=" a  b ",service="b"]],
      { realm = " a  b ", service = "b" } },
    { "with letters beyond ASCII in quotes", "Bearer realm=\"caf\195\169\",service=\"\255\"",
      { realm = "caf\195\169", service = "\255" } },
    { "without commas", [[Bearer realm="a" service="b"]], short },
    { "without commas and quotes", "Bearer realm=a service=b", short },
    { "without commas, behind Basic", [[Basic realm="x" Bearer realm="a" service="b"]], short },
    { "with its line end", "Bearer realm=\"a\",service=\"b\"\r\n", short },
    { "behind a Basic whose realm is broken", [[Basic realm=/, Bearer realm="a",service="b"]], short },
    { "behind a Basic whose second parameter is broken",
      [[Basic realm="x", charset=/, Bearer realm="a",service="b"]], short },
    { "behind one that is broken in quotes", [[Digest a=(", Bearer realm=b,"), Bearer realm="a",service="b"]], short },
    { "before one that is broken", [[Bearer realm="a",service="b", Basic "x"]], short },
    { "behind a broken Negotiate", [[Negotiate a=b=, Bearer realm="a",service="b"]], short },
    { "behind Basic", [[Basic realm="x", Bearer realm="a",service="b"]], short },
    { "before Basic", [[Bearer realm="a",service="b", Basic realm="x",service="y"]], short },
    { "between others", [[Digest realm="x",nonce="y", Bearer realm="a",service="b", Basic realm="z"]], short },
    { "behind one without parameters", [[Negotiate, Bearer realm="a",service="b"]], short },
    { "behind token68", [[Negotiate YWJj/+-._~==, Bearer realm="a",service="b"]], short },
    { "before token68", [[Bearer realm="a",service="b", Negotiate YWJj==]], short },
    { "after one that contains its name",
      [[Digest realm="Bearer realm=\"no\", service=no", Bearer realm="a",service="b"]],
      short },
    { "behind one whose parameter has its name", [[Digest bearer="x", Bearer realm="a",service="b"]], short },
    { "as the first of two", [[Bearer realm="a",service="b", Bearer realm="c",service="d",scope="e"]], short },
    { "as the first of two, with nothing", [[Bearer, Bearer realm="c",service="d"]], {} },
    { "of a scheme that is longer is another's", [[BearerX realm="x", Bearer realm="a",service="b"]], short },
    { "beside one that repeats itself", [[Basic realm="x",realm="y", Bearer realm="a",service="b"]], short },
  } do
    it(case[1], function() assert.same(case[3], read(case[2])) end)
  end

  -- a parameter twice, or a form that RFC 7235 does not permit
  for _, value in ipairs {
    [[Bearer realm="a",realm="b"]], [[Bearer realm="a",REALM="a"]], [[Bearer realm=a,service=b,scope=c,service=b]],
    [[Bearer realm="a]], [[Bearer realm="a\"]], [[Bearer realm="a\]],
    [[Bearer =a]], [[Bearer realm="a"b]], [[Bearer realm="a";service="b"]],
    [[Bearer realm=a b]], [[Bearer realm="a"="b"]], [[realm="a",service="b"]], [[="a"]], [["Bearer"]],
    [[Bearer: realm="a"]], [[Bearer/realm="a"]], "Bearer realm=\"a\nb\"", "Bearer realm=\"a\0b\"",
    "Bearer realm=\"a\127\"", "Bearer realm=\"\\\n\"", "Bearer\0", "\0Bearer", "Bearer realm=a\0", "Bearer\nrealm=a",
    "Bearer\rrealm=a", "B\195\169arer realm=a", "Bearer realm=\195\169", [[Bearer realm='a b']], [[Bearer (realm=a)]],
    [[Basic realm="x", Bearer realm="a]],
    [[Bearer realm="a",service="b",@]],
  } do
    it("is malformed as " .. (("%q"):format(value):gsub("%c", "?")), function()
      assert.matches("WWW-Authenticate", refuse(value), 1, true)
    end)
  end

  for _, value in ipairs { "", " ", "\t", ",", " , ,, ", "Basic", [[Basic realm="x"]], "Negotiate YWJj==",
    [[Basic realm="Bearer"]], [[Digest realm="Bearer realm=x", nonce=y]], "Basic, Negotiate", "Bearers",
    [[Digest bearer="x"]] } do
    it("is not there in " .. ("%q"):format(value), function()
      assert.matches("no Bearer challenge", refuse(value), 1, true)
    end)
  end

  it("must be a string", function()
    for _, value in ipairs { 1, true, {}, print } do assert.is_false((pcall(icptoken.challenge, value))) end
    assert.is_false((pcall(icptoken.challenge)))
    assert.is_false((pcall(icptoken.challenge, nil)))
  end)

  it("that is long and hostile is read quickly or refused", function()
    local function repeated(front, piece, back)
      return front .. piece:rep(math.ceil(MEGABYTE / #piece)) .. (back or "")
    end
    for i, value in ipairs {
      repeated("", ","), repeated("", " "), repeated("", "a "), repeated("", "a,"), repeated("", "a=,"),
      repeated("", "a b=c,"), repeated("", "a b=\"c\\\"\", "), repeated("", "Bearer "), repeated("", "Bearer,"),
      repeated("", "Bearer realm=a,"), repeated("Bearer ", "x=y,"), repeated("Bearer ", "x=\"y\","),
      repeated("Bearer realm=\"", "\\"), repeated("Bearer realm=\"", "\\\\"), repeated("Bearer realm=\"", "\""),
      repeated("Bearer ", "a"), repeated("Bearer ", "="), repeated("Bearer a", "="), repeated("Bearer ", "a=\"b"),
      repeated("", "\""), repeated("", "\0"), repeated("", "\255"), repeated("", "x", " realm=\""),
      repeated("Bearer ", " =", "\""), repeated("Bearer realm", " ", "=a"), repeated("Bearer realm=a", " ,"),
      repeated("", "Negotiate YWJj==,"), repeated("", "a b=\"" .. ("x"):rep(1000) .. "\","),
    } do
      local before = os.clock() -- CPU time, so that other load of the machine does not count
      local challenge, message, code = icptoken.challenge(value)
      local seconds = os.clock() - before
      -- a quadratic algorithm would take 10^12 steps
      assert.is_true(seconds < 30, ("case %d took %.2f s"):format(i, seconds))
      if not challenge then
        assert.equal("invalid_response", code)
        assert.is_true(#message < 1000)
      end
    end
    local long = ("x"):rep(MEGABYTE)
    assert.equal(long, read('Bearer realm="' .. long .. '",service=b').realm)
    assert.equal('"' .. long, read('Bearer realm="\\"' .. long:gsub("x", "\\x") .. '"').realm)
    assert.equal(long, read("Bearer realm=" .. long).realm)
  end)

  -- A generator whose numbers are the same on every runtime.
  local function make_random()
    local state = 20170101
    return function(most)
      state = (state * 16807) % 2147483647
      return state % most + 1
    end
  end

  it("of random pieces returns a table of strings or is refused", function()
    local random = make_random()
    local pieces = { "Bearer", "Basic", "realm", "service", "scope", "error", "=", "=", ",", ",", " ", "\t", '"', '"',
      "\\", "a", "YWJj==", "\0", "\255", ":" }
    local read_well = 0
    for _ = 1, slow and 2000 or 30000 do
      local parts = { "Bearer " }
      for i = 1, random(14) do parts[i + random(2) - 1] = pieces[random(#pieces)] end
      local value = {}
      for i = 1, 16 do value[#value + 1] = parts[i] end
      value = table.concat(value)
      local challenge, _, code = icptoken.challenge(value)
      if challenge then
        read_well = read_well + 1
        for name, text in pairs(challenge) do
          assert.is_true(name == "realm" or name == "service" or name == "scope" or name == "error")
          assert.is_string(text)
        end
      else
        assert.equal("invalid_response", code)
      end
    end
    assert.is_true(read_well > 10)
  end)

  it("is read however it is written", function()
    local random = make_random()
    local function choose(list) return list[random(#list)] end
    local function space() return choose { "", "", " ", "\t", " \t " } end
    local function in_any_case(word)
      return (word:gsub("%a", function(c) return random(2) == 1 and c:upper() or c:lower() end))
    end
    local function quote(text)
      return '"' .. text:gsub(".", function(c)
        return (c:find '["\\]' or random(5) == 1) and "\\" .. c or c
      end) .. '"'
    end
    local function write_value(text)
      return text:find "^%w+$" and random(2) == 1 and text or quote(text)
    end
    local function write_parameters(fields)
      local list = {}
      for name, text in pairs(fields) do
        list[#list + 1] = in_any_case(name) .. space() .. "=" .. space() .. write_value(text)
      end
      return table.concat(list, space() .. choose { ",", ",", ", ,", ",," } .. space())
    end
    local values = { "a", "b c", [[q"\]], "repository:a/b:pull,push registry:catalog:*", "", "Bearer x=y, z" }
    for _ = 1, slow and 100 or 1000 do
      local wanted, others = {}, {}
      for _, name in ipairs { "realm", "service", "scope", "error" } do
        if random(2) == 1 then wanted[name] = choose(values) end
      end
      if next(wanted) and random(2) == 1 then wanted.x = "y" end
      for _ = 1, random(3) - 1 do
        others[#others + 1] = choose { "Negotiate", "Negotiate YWJj==", 'Basic realm="x"',
          "Digest " .. write_parameters { realm = choose(values), nonce = "n" } }
      end
      local list = { in_any_case "bearer" .. " " .. space() .. write_parameters(wanted) }
      for _, other in ipairs(others) do table.insert(list, random(#list + 1), other) end
      local value = table.concat(list, space() .. "," .. space())
      wanted.x = nil
      assert.same(wanted, read(value), value)
    end
  end)
end)

describe("a client with a challenge", function()
  local stub, client

  setup(function() stub = stub_client.share() end)
  teardown(function() stub:stop() end)

  before_each(function()
    stub:reset()
    client = icptoken.new(cases.options(stub, { service = "default-service" }))
  end)
  after_each(function() client:close() end)

  -- the realm is a listener of the stub, whose log would show a request
  local function make_challenge(rest)
    return read(('Bearer realm="http://127.0.0.1:%d/token?x=y"%s'):format(stub.ports.http, rest))
  end

  for _, method in ipairs { "token", "fetch" } do
    it("requests what the challenge names from its own endpoint, by " .. method, function()
      local challenge = make_challenge [[,service="token-service",scope="repository:a/b:pull,push",error="x"]]
      local token = assert(client[method](client, challenge))
      local claims = icptoken.decode(token.token).claims
      assert.equal("token-service", claims.aud)
      assert.same({ { type = "repository", name = "a/b", actions = { "pull", "push" } } }, claims.access)
      assert.same({ "token-service" }, stub:last().query.service)
      assert.same({ "repository:a/b:pull,push" }, stub:last().query.scope)
      assert.is_nil(stub:last().query.realm)
      assert.is_nil(stub:last().query.error)
      assert.same({ https = 1 }, stub:accepted()) -- no request was sent to the realm
    end)

    it("splits several scopes at spaces, by " .. method, function()
      assert(client[method](client, make_challenge [[,scope="repository:a:pull registry:catalog:*"]]))
      assert.same({ "repository:a:pull", "registry:catalog:*" }, stub:last().query.scope)
      assert.same({ "default-service" }, stub:last().query.service)
    end)
  end

  it("shares its cached token with requests that ask for the same", function()
    local challenge = make_challenge [[,service="s",scope="a:b:c d:e:f"]]
    local token = assert(client:token(challenge))
    local again, _, source = client:token { service = "s", scope = { "d:e:f", "a:b:c" } }
    assert.equal("cached", source)
    assert.equal(token, again)
    challenge.error, challenge.realm = "insufficient_scope", "elsewhere"
    assert.equal("cached", (select(3, client:token(challenge))))
  end)

  it("raises an error for one whose values cannot be sent", function()
    for _, name in ipairs { "service", "scope", "realm", "error" } do
      assert.is_false((pcall(client.token, client, { [name] = "a\n" })))
      assert.is_false((pcall(client.token, client, { [name] = 1 })))
    end
    assert.equal(0, #stub:requests())
  end)

  describe("of a real registry", function()
    local registry

    setup(function()
      registry = registry_server.start { realm = "https://realm.invalid/token", service = "token-service",
        certificate = stub.token_signing_cert }
    end)

    teardown(function()
      registry.stop()
    end)

    local function ask(path, token)
      local _, status, headers = http.request { url = "http://" .. registry.address .. path,
        headers = { Authorization = token and "Bearer " .. token } }
      return status, headers["www-authenticate"]
    end

    for _, path in ipairs { "/v2/_catalog", "/v2/", "/v2/team/app/tags/list" } do
      it("grants access with a token for it: " .. path, function()
        local status, value = ask(path)
        assert.equal(401, status)
        local challenge = read(value)
        assert.equal("token-service", challenge.service)
        local token = assert(client:token(challenge))
        status, value = ask(path, token.token)
        assert.equal(path:find "team" and 404 or 200, status, value) -- 404: allowed, but the repository does not exist
        assert.equal("cached", (select(3, client:token(challenge))))
      end)
    end

    it("reports a token that is not sufficient", function()
      local token = assert(client:token { service = "another", scope = "registry:catalog:*" })
      local status, value = ask("/v2/_catalog", token.token)
      assert.equal(401, status)
      local challenge = read(value)
      assert.equal("invalid_token", challenge.error)
      assert.equal(200, (ask("/v2/_catalog", assert(client:token(challenge)).token)))
    end)
  end)
end)

describe("a value whose quotes are never closed", function()
  local QUOTES = 60000

  local function measure(piece)
    local before = os.clock()
    local challenge = icptoken.challenge('Bearer realm="x", Basic a="' .. piece:rep(QUOTES))
    assert.equal("x", challenge.realm)
    return os.clock() - before
  end

  it("takes about as long as any other of its length", function()
    local control = measure "xy"
    for _, piece in ipairs { '\\"', ',\\"', 'a=\\",' } do
      local seconds = measure(piece)
      assert.is_true(seconds < 50 * control + 0.1, ("%q: %.2f s, and %.3f s"):format(piece, seconds, control))
    end
  end)
end)
