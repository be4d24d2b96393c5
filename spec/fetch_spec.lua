-- What a fetch sends, over which connection, and the token table and client that a caller gets.

local files = require "support.files"
local mime = require "mime"
local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"
local timing = require "support.timing"
local wall_clock = require "support.wall_clock"

local PATH = "/image-manager/api/v1/auth/token"
local LOGIN_PATH = "/idprovider/v1/auth/identitytoken"
local ANY_TOKEN = { status = 200, body = '{"token":"any"}', times = "forever" }
local MAX_FILE = 64 * 1024

local stub
local clients, paths

local function options(changes)
  return cases.options(stub, changes)
end

local function new_client(changes)
  local client = icptoken.new(options(changes))
  clients[#clients + 1] = client
  return client
end

-- Fetches once with these options and returns the request that the stub received.
local function send(changes, request)
  assert(new_client(changes):fetch(request))
  local requests = stub:requests()
  assert.equal(1, #requests)
  return requests[1]
end

local function header(request, name)
  return (stub_client.header(request, name))
end

local function authorization()
  return header(stub:last(), "Authorization")
end

local function make_path()
  local path = os.tmpname()
  paths[#paths + 1] = path
  return path
end

local function make_file(content)
  local path = make_path()
  files.write(path, content)
  return path
end

-- Fails with invalid_credential and returns the message.
local function refuse_credential(client)
  return (cases.check_failure("invalid_credential", { stub.id_token }, client:fetch()))
end

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)

before_each(function()
  stub:reset()
  clients, paths = {}, {}
end)

after_each(function()
  for _, client in ipairs(clients) do client:close() end
  for _, path in ipairs(paths) do os.remove(path) end
end)

describe("a request #short", function()
  it("is a GET of the endpoint's path, without query and body", function()
    local request = send()
    assert.equal("GET", request.method)
    assert.equal(PATH, request.target)
    assert.equal("", request.body)
  end)

  it("carries the ID token as a Bearer credential", function()
    assert.equal("Bearer " .. stub.id_token, header(send(), "Authorization"))
  end)

  it("asks for JSON", function()
    assert.equal("application/json", header(send(), "Accept"))
  end)

  it("names host and port", function()
    assert.equal("localhost:" .. stub.port, header(send(), "Host"))
  end)

  it("has a User-Agent", function()
    assert.matches("^icptoken/" .. icptoken._VERSION:gsub("%.", "%%.") .. " libcurl/%d", header(send(), "User-Agent"))
  end)

  it("has the User-Agent of the option", function()
    assert.equal("my gateway/1", header(send { user_agent = "my gateway/1" }, "User-Agent"))
  end)

  it("has no User-Agent if the option is empty", function()
    assert.is_nil(header(send { user_agent = "" }, "User-Agent"))
  end)

  it("contains no other header", function()
    local known = { host = true, authorization = true, accept = true, ["user-agent"] = true,
      ["accept-encoding"] = true }
    for _, each in ipairs(send().headers) do assert.is_true(known[each[1]:lower()], each[1]) end
  end)

  it("is HTTP/1.1 by default", function()
    assert.equal("1.1", send().version)
  end)

  it("is HTTP/2 if that is chosen", function()
    local request = send { http_version = "2", service = "registry" }
    assert.equal("2", request.version)
    assert.equal("Bearer " .. stub.id_token, header(request, "Authorization"))
    assert.same({ service = { "registry" } }, request.query)
  end)

  it("falls back to HTTP/1.1 if the server does not support HTTP/2", function()
    assert.equal("1.1", send({ http_version = "2", port = stub.ports.h1 }).version)
  end)
end)

-- Each: what, the client's options, the request's, and the expected query.
local QUERIES = {
  { "the service", { service = "token-service" }, nil, { service = { "token-service" } } },
  { "a scope", { scope = "repository:a/b:pull,push" }, nil, { scope = { "repository:a/b:pull,push" } } },
  { "a scope for each part between spaces", { scope = "  registry:catalog:*   repository:a:pull " }, nil,
    { scope = { "registry:catalog:*", "repository:a:pull" } } },
  { "a scope for each entry of a list", { scope = { "repository:a:pull", "repository:b:push" } }, nil,
    { scope = { "repository:a:pull", "repository:b:push" } } },
  { "no scope for an empty string or list", { scope = "" }, { scope = {} }, {} },
  { "the account", { account = "admin" }, nil, { account = { "admin" } } },
  { "the client_id", { client_id = "script" }, nil, { client_id = { "script" } } },
  { "offline_token if it is true", { offline_token = true }, nil, { offline_token = { "true" } } },
  { "no offline_token if it is false", { offline_token = false }, nil, {} },
  { "all of them together", { service = "s", scope = "a b", account = "c", client_id = "d", offline_token = true }, nil,
    { service = { "s" }, scope = { "a", "b" }, account = { "c" }, client_id = { "d" }, offline_token = { "true" } } },
  { "the fields of the request, if both have them",
    { service = "s", scope = "a b", account = "c", client_id = "d", offline_token = true },
    { service = "S", scope = { "A" }, account = "C", client_id = "D", offline_token = false },
    { service = { "S" }, scope = { "A" }, account = { "C" }, client_id = { "D" } } },
  { "the options of the client, if the request does not have them",
    { service = "s", scope = "a b", account = "c", client_id = "d", offline_token = true }, {},
    { service = { "s" }, scope = { "a", "b" }, account = { "c" }, client_id = { "d" }, offline_token = { "true" } } },
  { "something of both", { service = "s", account = "c" }, { scope = "a" },
    { service = { "s" }, account = { "c" }, scope = { "a" } } },
  { "the rest of a request that comes from a challenge", { scope = "other" },
    { realm = "https://a/b", service = "s", scope = "repository:a:pull", error = "insufficient_scope" },
    { service = { "s" }, scope = { "repository:a:pull" } } },
}

-- Each is sent in a query, and must be received unchanged.
local AWKWARD = {
  "a&b=c", "a?b#c", "100% sure", "a+b", "a/b;c,d:e@f", "%41", "\"'<>\\^`{|}", "caf\195\169 \226\130\172",
  "~tilde-dash_under.dot",
}

describe("the query", function()
  for _, case in ipairs(QUERIES) do
    local what, of_client, of_request, wanted = case[1], case[2], case[3], case[4]

    it("names " .. what, function()
      assert.same(wanted, send(of_client, of_request).query)
    end)
  end

  for _, text in ipairs(AWKWARD) do
    it("is percent-encoded: " .. text, function()
      local request = send { service = text, scope = { text }, account = text, client_id = text }
      local scopes = {}
      for scope in text:gmatch "[^ ]+" do scopes[#scopes + 1] = scope end
      assert.same({ service = { text }, scope = scopes, account = { text }, client_id = { text } }, request.query)
      assert.matches("^[%w/?&=%%%-._~]+$", request.target)
    end)
  end

  it("is appended to that of the url option", function()
    local request = send { host = false, port = false, service = "s",
      url = ("https://localhost:%d%s?tenant=7"):format(stub.port, PATH) }
    assert.same({ tenant = { "7" }, service = { "s" } }, request.query)
  end)

  it("of one request is not that of the next", function()
    local client = new_client { service = "s" }
    assert(client:fetch { scope = "a", account = "b" })
    assert(client:fetch { scope = "c" })
    assert.same({ service = { "s" }, scope = { "c" } }, stub:last().query)
    assert(client:fetch())
    assert.same({ service = { "s" } }, stub:last().query)
  end)

  it("of icptoken.fetch comes from its options", function()
    assert(icptoken.fetch(options { service = "s", scope = "a b" }))
    assert.same({ service = { "s" }, scope = { "a", "b" } }, stub:last().query)
  end)
end)

-- Each: user, password, and their base64. The second and third are from RFC 7617.
local USERS = {
  { "admin", "admin", "YWRtaW46YWRtaW4=" },
  { "Aladdin", "open sesame", "QWxhZGRpbjpvcGVuIHNlc2FtZQ==" },
  { "test", "123\194\163", "dGVzdDoxMjPCow==" },
  { "a", "b:c:d", "YTpiOmM6ZA==" },
  { "a", "b", "YTpi" },
  { "a", "?>?>", "YTo/Pj8+" },
}

-- Each: what is around the ID token, before and after it.
local WRAPPINGS = {
  { "white space", " \t\r\n", "\n" }, { "Bearer in front", "Bearer ", "" }, { "bearer in front", "bearer ", "" },
  { "BEARER in front", "BEARER ", "" }, { "both", "\n  Bearer \t ", " \r\n" },
}

describe("the credential", function()
  for _, case in ipairs(USERS) do
    local username, password, encoded = case[1], case[2], case[3]

    it(("of user %s and password %s is Basic %s"):format(username, password, encoded), function()
      stub:set { users = { [username] = password } }
      local request = send { id_token = false, username = username, password = password }
      assert.equal("Basic " .. encoded, header(request, "Authorization"))
    end)
  end

  it("is not sent by an anonymous client", function()
    stub:plan(ANY_TOKEN)
    assert.is_nil(header(send { id_token = false, anonymous = true }, "Authorization"))
  end)

  for _, case in ipairs(WRAPPINGS) do
    it("is the ID token without " .. case[1], function()
      local request = send { id_token = case[2] .. stub.id_token .. case[3] }
      assert.equal("Bearer " .. stub.id_token, header(request, "Authorization"))
    end)
  end

  it("may be an ID token of the request, for that request alone", function()
    local client = new_client()
    stub:set { id_tokens = { "other-id-token" } }
    for _ = 1, 2 do
      assert(client:fetch { id_token = "other-id-token" })
      assert.equal("Bearer other-id-token", authorization())
      assert(client:fetch())
      assert.equal("Bearer " .. stub.id_token, authorization())
    end
  end)

  it("may be a user name and password of the request, for that request alone", function()
    local client = new_client()
    for _ = 1, 2 do
      assert(client:fetch { username = "admin", password = "admin" })
      assert.equal("Basic YWRtaW46YWRtaW4=", authorization())
      assert(client:fetch())
      assert.equal("Bearer " .. stub.id_token, authorization())
    end
  end)

  it("of the request may replace any kind of the client's", function()
    stub:plan(ANY_TOKEN)
    local of_client = {
      { username = "admin", password = "admin" }, { id_token_file = stub.id_token_file }, { anonymous = true },
    }
    for _, credential in ipairs(of_client) do
      credential.id_token = false
      local client = new_client(credential)
      assert(client:fetch())
      local own = authorization()
      assert(client:fetch { id_token = "other-id-token" })
      assert.equal("Bearer other-id-token", authorization())
      assert(client:fetch())
      assert.equal(own, authorization())
    end
  end)

  -- Short names and long ones: Lua 5.4 interns strings of up to 40 bytes only.
  for _, size in ipairs { 8, 60 } do
    local function lengthen(text) return text .. ("x"):rep(size - #text) end
    local function encode(username, password) return "Basic " .. (mime.b64(username .. ":" .. password)) end
    local user, other_user, right, wrong = lengthen "anna", lengthen "bert", lengthen "right", lengthen "wrong"
    local id_token, other_id_token = lengthen "id-token-1", lengthen "id-token-2"
    local is_good = { ["Bearer " .. id_token] = true, ["Bearer " .. other_id_token] = true,
      ["Bearer logged-in"] = true, [encode(user, right)] = true }

    -- Each: what it is, its options (FILE stands for the path of an ID token file), and the header that is received.
    local OF_CLIENT = {
      { "an ID token", { id_token = id_token }, "Bearer " .. id_token },
      { "an ID token that is refused", { id_token = "refused" }, "Bearer refused" },
      { "an id_token function", { id_token = function() return id_token end }, "Bearer " .. id_token },
      { "an ID token file", { id_token_file = "FILE" }, "Bearer " .. id_token },
      { "user and password", { username = user, password = right }, encode(user, right) },
      { "user and wrong password", { username = user, password = wrong }, encode(user, wrong) },
      { "a login", { login = { username = user, password = right } }, "Bearer logged-in" },
      { "no credential", { anonymous = true }, "none" },
    }
    local OF_REQUEST = {
      { {} },
      { { id_token = id_token }, "Bearer " .. id_token },
      { { id_token = other_id_token }, "Bearer " .. other_id_token },
      { { id_token = "refused" }, "Bearer refused" },
      { { username = user, password = right }, encode(user, right) },
      { { username = user, password = wrong }, encode(user, wrong) },
      { { username = other_user, password = right }, encode(other_user, right) },
      { { username = other_user, password = wrong }, encode(other_user, wrong) },
    }

    for _, own in ipairs(OF_CLIENT) do
      it(("of a client, %s (%d bytes), never mixes with that of a request"):format(own[1], size), function()
        local changes = { id_token = false, host = false, port = false, cacert = false,
          url = ("http://127.0.0.1:%d%s"):format(stub.ports.http, PATH) }
        for name, value in pairs(own[2]) do changes[name] = value end
        if changes.id_token_file then changes.id_token_file = make_file(id_token) end

        local function check(client, request, arrives)
          local before = #stub:requests()
          local token, message, code = client:fetch(request)
          assert.is_true(#stub:requests() > before)
          assert.equal(arrives, authorization() or "none")
          if is_good[arrives] then assert.is_table(token, message) else assert.equal("unauthorized", code) end
        end

        for _, given in ipairs(OF_REQUEST) do
          stub:reset()
          stub:set { users = { [user] = right }, id_tokens = { id_token, other_id_token, "logged-in" } }
          stub:plan { path = LOGIN_PATH, body = '{"id_token":"logged-in"}', times = "forever" }
          local client = new_client(changes)
          check(client, given[1], given[2] or own[3])
          if is_good[own[3]] then check(client, nil, own[3]) end
        end
      end)
    end
  end

  it("of the client is sent again after a request's own was invalid", function()
    local client = new_client()
    cases.check_failure("invalid_credential", {}, client:fetch { id_token = "no good" })
    cases.check_failure("unauthorized", { "refused-token" }, client:fetch { id_token = "refused-token" })
    assert(client:fetch())
    assert.equal("Bearer " .. stub.id_token, authorization())
  end)
end)

describe("an ID token file", function()
  local function new_file_client(path)
    return new_client { id_token = false, id_token_file = path }
  end

  it("is read at every fetch", function()
    stub:set { id_tokens = { "first-token", "second-token" } }
    local path = make_file "first-token\n"
    local client = new_file_client(path)
    assert(client:fetch())
    assert.equal("Bearer first-token", authorization())
    files.write(path, "Bearer second-token")
    assert(client:fetch())
    assert.equal("Bearer second-token", authorization())
  end)

  it("that is created later is read then", function()
    local path = make_path()
    os.remove(path)
    local client = new_file_client(path)
    refuse_credential(client)
    files.write(path, stub.id_token)
    assert(client:fetch())
  end)

  it("may have 64 KiB", function()
    local padding = (" "):rep(MAX_FILE - #stub.id_token)
    assert(new_file_client(make_file(stub.id_token .. padding)):fetch())
    assert.equal("Bearer " .. stub.id_token, authorization())
  end)

  -- Each row is a description, and a function that creates the file and returns its path.
  for _, case in ipairs {
    { "is missing", function()
      local path = make_path()
      os.remove(path)
      return path
    end, "does not exist" },
    { "is larger than 64 KiB", function()
      return make_file(stub.id_token .. (" "):rep(MAX_FILE - #stub.id_token + 1))
    end, "larger than 65536 bytes" },
    { "has 3 GiB, more than 32 bits of an off_t can count", function()
      local path = make_path()
      os.execute("truncate -s 3G " .. path)
      return path
    end, "larger than 65536 bytes" },
    { "is empty", function() return make_file "" end, "empty" },
    { "is white space", function() return make_file " \n" end, "empty" },
    { "contains two words", function() return make_file "one two" end, "characters that a bearer token cannot have" },
    { "has a NUL byte", function() return make_file "one\0two" end, "characters that a bearer token cannot have" },
    { "is a directory", function() return stub.dir end, "is a directory" },
    { "has no end", function() return "/dev/zero" end, "larger than 65536 bytes" },
  } do
    local what, make, why = case[1], case[2], case[3]

    it("that " .. what .. " is not usable, and nothing is sent", function()
      local path = make()
      local message = refuse_credential(new_file_client(path))
      assert.matches(path, message, 1, true)
      assert.matches(why, message, 1, true)
      assert.same({}, stub:log())
    end)
  end
end)

describe("option certificates", function()
  it("keeps what the server sent on a new connection", function()
    local client = new_client { certificates = true, retries = 0 }
    assert.is_nil(client:stats().certificates)
    assert(client:fetch())
    local body = files.read(stub.server_cert):match "BEGIN CERTIFICATE%-%-%-%-%-(.-)%-%-%-%-%-END":gsub("%s", "")
    local sent = client:stats().certificates:gsub("%s", "")
    assert.matches(body, sent, 1, true)
    assert(client:fetch())
    assert.equal(0, client:stats().timings.connections)
    local kept = client:stats().certificates
    assert.is_true(kept == nil or kept:gsub("%s", "") == sent)
    client:close()
  end)

  it("keeps nothing if it is not set", function()
    local client = new_client {}
    assert(client:fetch())
    assert.is_nil(client:stats().certificates)
    client:close()
  end)
end)

describe("option headers", function()
  it("adds headers", function()
    local request = send { headers = { ["X-Trace"] = "a  b; c=\"d\"", ["x-other"] = "1" } }
    assert.equal("a  b; c=\"d\"", header(request, "X-Trace"))
    assert.equal("1", header(request, "x-other"))
  end)

  it("adds a header without a value", function()
    assert.equal("", header(send { headers = { ["X-Empty"] = "" } }, "X-Empty"))
  end)

  it("may replace Accept", function()
    local count = 0
    for _, each in ipairs(send({ headers = { accept = "text/plain" } }).headers) do
      if each[1]:lower() == "accept" then
        assert.equal("text/plain", each[2])
        count = count + 1
      end
    end
    assert.equal(1, count)
  end)

  it("does not change the credential", function()
    assert.equal("Bearer " .. stub.id_token, header(send { headers = { ["X-Trace"] = "1" } }, "Authorization"))
  end)

  -- The values of X-Client, X-Request and X-Other in the last token request; "" for none.
  local function read_headers()
    local request = stub:last()
    return { header(request, "X-Client") or "", header(request, "X-Request") or "", header(request, "X-Other") or "" }
  end

  it("of a request is added to those of the client, in that request only", function()
    local client = new_client { headers = { ["X-Client"] = "c" }, retries = 0 }
    for _, case in ipairs {
      { nil, { "c", "", "" } }, { { headers = { ["X-Request"] = "r1" } }, { "c", "r1", "" } },
      { { headers = { ["X-Other"] = "o", ["X-Request"] = "r2" } }, { "c", "r2", "o" } },
      { { headers = {} }, { "c", "", "" } }, { { headers = { ["X-Other"] = "" } }, { "c", "", "" } },
      { { scope = "repository:a:pull" }, { "c", "", "" } },
    } do
      assert(client:fetch(case[1]))
      assert.same(case[2], read_headers())
      assert.equal("Bearer " .. stub.id_token, authorization())
      assert.equal("application/json", header(stub:last(), "Accept"))
    end
    assert(client:fetch { headers = { ["X-Request"] = "r" } })
    assert(client:token())
    assert.same({ "c", "", "" }, read_headers())
    client:close()
  end)

  it("of a request is in all its attempts, also those beside others", function()
    timing.try(function(scale) -- a slow answer that does not hang causes one more attempt
      stub:reset()
      stub:plan({ status = 503 }, { delay = { before = 600 } }, {})
      local client = new_client { hedge_after = 0.1 * scale, retries = 1, timeout = 300 }
      assert(client:fetch { headers = { ["X-Request"] = "r" } })
      local count = 0
      for _, request in ipairs(stub:requests()) do
        assert.equal("r", header(request, "X-Request"))
        count = count + 1
      end
      assert.equal(3, count)
      -- a later attempt beside another one does not have it
      stub:reset()
      stub:plan({ delay = { before = 600 } }, {})
      assert(client:fetch())
      for _, request in ipairs(stub:requests()) do assert.is_nil(header(request, "X-Request")) end
      client:close()
    end)
  end)

  it("of a request is hidden in messages", function()
    stub:plan { status = 400, body = '{"message":"no request s3cret-id and no client s3cret-key"}' }
    local client = new_client { headers = { ["X-Client"] = "s3cret-key" } }
    local _, message = client:fetch { headers = { ["X-Request"] = "s3cret-id" } }
    assert.matches("no request [hidden] and no client [hidden]", message, 1, true)
    client:close()
  end)
end)

describe("the endpoint", function()
  local function ask_at(changes)
    stub:plan(ANY_TOKEN)
    return send(changes)
  end

  it("may have another path", function()
    assert.equal("/registry/token", ask_at({ path = "/registry/token" }).path)
  end)

  it("may be a URL", function()
    local url = ("https://localhost:%d/registry/token"):format(stub.port)
    assert.equal("/registry/token", ask_at({ host = false, port = false, url = url }).path)
  end)

  it("may be an IPv4 address", function()
    assert.equal("127.0.0.1:" .. stub.port, header(send { host = "127.0.0.1" }, "Host"))
  end)

  for _, host in ipairs { "::1", "[::1]" } do
    it("may be an IPv6 address: " .. host, function()
      assert.equal(("[::1]:%d"):format(stub.port), header(send { host = host }, "Host"))
    end)
  end

  it("may be an IPv6 address in a URL", function()
    send { host = false, port = false, url = ("https://[::1]:%d%s"):format(stub.port, PATH) }
  end)

  it("is looked up in option resolve", function()
    local request = send { host = "mycluster.icp", resolve = { ["mycluster.icp:" .. stub.port] = "127.0.0.1" } }
    assert.equal("mycluster.icp:" .. stub.port, header(request, "Host"))
  end)

  it("may be mapped to an IPv6 address", function()
    send { host = "mycluster.icp", resolve = { ["mycluster.icp:" .. stub.port] = "::1" } }
  end)

  it("may be mapped to several addresses, which are tried in turn", function()
    for _, addresses in ipairs { { "127.0.0.9", "127.0.0.1" }, "127.0.0.9,127.0.0.1", { "127.0.0.9", "::1" } } do
      stub:reset()
      send { host = "mycluster.icp", resolve = { ["mycluster.icp:" .. stub.port] = addresses } }
    end
  end)
end)

describe("the connection", function()
  for _, version in ipairs { "1.1", "2" } do
    it("is kept and reused over HTTP/" .. version, function()
      local client = new_client { http_version = version }
      for i = 1, 4 do assert(client:fetch { scope = "repository:a" .. i .. ":pull" }) end
      local requests = stub:requests()
      assert.equal(4, #requests)
      for _, request in ipairs(requests) do assert.equal(requests[1].connection, request.connection) end
      assert.equal(1, stub:accepted().https)
    end)
  end

  it("is not reused if the server has sent unrequested data", function()
    for _, changes in ipairs { {}, { host = false, port = false, cacert = false,
      url = ("http://127.0.0.1:%d/image-manager/api/v1/auth/token"):format(stub.ports.http) } } do
      local body = '{"token":"abc.def","expires_in":1800}'
      local answer = ("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s"):format(#body, body)
      local unasked = "HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\nX: "
      unasked = unasked .. ("x"):rep(#answer - #unasked - 4) .. "\r\n\r\n"
      stub:reset()
      stub:plan { raw = answer .. unasked, delay = { body = 0.05, after = 0.05 }, ["end"] = "hold" }
      local known = {}
      for _, socket in ipairs(testkit.open_sockets()) do known[socket.fd] = true end
      local client = new_client(changes)
      assert(client:fetch())
      local deadline = testkit.monotonic() + 30
      repeat -- until it has arrived
        local waiting = false
        for _, socket in ipairs(testkit.open_sockets()) do
          waiting = waiting or not known[socket.fd] and socket.readable
        end
      until waiting or testkit.monotonic() > deadline
      local token, message = client:fetch()
      assert.is_table(token, message)
      assert.equal(2, #stub:requests())
      client:close()
    end
  end)

  for _, version in ipairs { "1.1", "2" } do
    it("that has swallowed a request is not used again over HTTP/" .. version, function()
      timing.try(function(scale) -- the limit has to suffice for the request to arrive
        stub:reset()
        local client = new_client { http_version = version }
        assert(client:fetch())
        stub:plan { delay = { before = 600 } }
        cases.check_failure("timeout", {}, client:fetch { timeout = 0.5 * scale })
        for _ = 1, 2 do assert(client:fetch()) end
        local connections = {}
        for i, request in ipairs(stub:requests()) do connections[i] = request.connection end
        assert.equal(4, #connections)
        assert.equal(connections[1], connections[2])
        assert.not_equal(connections[2], connections[3])
        assert.equal(connections[3], connections[4])
        client:close()
      end)
    end)
  end

  it("is kept after a refusal", function()
    local client = new_client()
    for _, status in ipairs { 401, 404, 429, 503 } do
      stub:plan { status = status, body = "no" }
      assert.is_nil((client:fetch()))
    end
    assert(client:fetch())
    assert.equal(1, stub:accepted().https)
  end)

  it("is a new one for each icptoken.fetch", function()
    for _ = 1, 2 do assert(icptoken.fetch(options())) end
    assert.equal(2, stub:accepted().https)
  end)

  it("is a new one after the server announced that it closes the connection", function()
    local client = new_client()
    stub:plan { keep_alive = false }
    for _ = 1, 2 do assert(client:fetch()) end
    assert.equal(2, stub:accepted().https)
  end)

  for _, ending in ipairs { "close", "abort", "reset" } do
    it("that was closed while it was idle costs no retry: " .. ending, function()
      local client = new_client()
      stub:plan { ["end"] = ending }
      assert(client:fetch())
      stub:log() -- the answer to this arrives after the connection was closed
      assert(client:fetch())
      local requests = stub:requests()
      assert.equal(2, #requests)
      assert.not_equal(requests[1].connection, requests[2].connection)
      assert.equal(2, client:stats().attempts)
    end)
  end
end)

describe("a token", function()
  local FIELDS = { "expires_in", "received_at", "expires_at", "refresh_at" }

  local function fetch(order, request)
    if order then stub:plan(order) end
    return assert(new_client():fetch(request))
  end

  it("is a plain table", function()
    local token = fetch { extra = { nested = { list = { 1, 2 } } } }
    assert.is_nil(getmetatable(token))
    assert.is_nil(getmetatable(token.nested))
    assert.is_nil(getmetatable(token.nested.list))
  end)

  it("is the only result", function()
    assert.equal(1, select("#", new_client():fetch()))
    assert.equal(1, select("#", icptoken.fetch(options())))
  end)

  it("contains every field as the server sent it", function()
    local token = fetch { token = "t-o-k", expires_in = 77, issued_at = "2017-11-30T05:24:21Z",
      extra = { refresh_token = "r", scope = "a b", list = { "x", { y = true } } } }
    assert.equal("t-o-k", token.token)
    assert.equal(77, token.expires_in)
    assert.equal("2017-11-30T05:24:21Z", token.issued_at)
    assert.equal("r", token.refresh_token)
    assert.equal("a b", token.scope)
    assert.same({ "x", { y = true } }, token.list)
  end)

  it("contains only the server's fields, the token and its times", function()
    local known = { token = true, issued_at = true }
    for _, name in ipairs(FIELDS) do known[name] = true end
    for name in pairs(fetch()) do assert.is_true(known[name] or false, name) end
  end)

  it("says on this machine's clock when it was received, when it expires and when to renew it", function()
    stub:set { clock_offset = -86400 * 365 }
    local before = os.time()
    local token = fetch()
    local after = wall_clock.read_after()
    assert.is_true(before <= token.received_at and token.received_at <= after)
    assert.is_true(before + 1800 - 1 <= token.expires_at and token.expires_at <= after + 1800)
    assert.is_true(token.received_at < token.refresh_at and token.refresh_at < token.expires_at)
  end)

  for _, name in ipairs(FIELDS) do
    it("has a whole number as " .. name, function()
      local value = fetch()[name]
      assert.equal(0, value % 1)
      if math.type then assert.equal("integer", math.type(value)) end
    end)
  end

  it("counts from the moment the successful attempt was sent", function()
    local client = new_client { retries = 1 }
    stub:plan({ status = 503, headers = { { "Retry-After", "1" } } }, { delay = { before = 1.2 } })
    local before = os.time()
    local token = assert(client:fetch())
    assert.is_true(token.expires_at >= before + 1 + 1800, "it counts from the first attempt")
    assert.is_true(token.expires_at <= token.received_at + 1800 - 1, "it counts from the answer")
  end)

  it("has a refresh token if an offline token is requested", function()
    assert.is_string(fetch(nil, { offline_token = true }).refresh_token)
  end)
end)

describe("a client", function()
  it("that is closed returns code closed from every method", function()
    local client = new_client()
    assert(client:fetch())
    client:close()
    for name, method in pairs(getmetatable(client).__index) do
      if name ~= "close" then
        local _, details = cases.check_failure("closed", { stub.id_token }, method(client, {}))
        assert.equal(0, details.attempts, name)
        assert.is_false(details.retryable)
      end
    end
    assert.equal(1, #stub:requests())
  end)

  it("may be closed more than once", function()
    local client = new_client()
    for _ = 1, 3 do assert.equal(0, select("#", client:close())) end
  end)

  it("may be closed before it was used", function()
    local client = new_client()
    client:close()
    assert.is_nil((client:fetch()))
    assert.same({}, stub:log())
  end)

  it("closes its connection when it is closed", function()
    local before = #testkit.open_sockets()
    local client = new_client()
    assert(client:fetch())
    assert.is_true(#testkit.open_sockets() > before)
    client:close()
    assert.equal(before, #testkit.open_sockets())
  end)

  it("is shown by tostring with its host, and without its credential", function()
    local client = new_client { id_token = false, username = "admin", password = "pass-of-admin" }
    assert.equal(("icptoken.client (localhost:%d)"):format(stub.port), tostring(client))
    client:close()
    assert.equal("icptoken.client (closed)", tostring(client))
  end)

  it("is closed at the end of its scope on Lua 5.4 and later", function()
    if _VERSION < "Lua 5.4" then return end
    local use = assert(load [[
      local icptoken, options = ...
      local kept
      do
        local client <close> = icptoken.new(options)
        assert(client:fetch())
        kept = client
      end
      return kept
    ]])
    cases.check_failure("closed", {}, use(icptoken, options()):fetch())
  end)

  it("has methods that refuse a value that is not a client", function()
    for _, method in pairs(getmetatable(new_client()).__index) do
      for _, other in ipairs { {}, "client", 1, io.stdout } do
        assert.is_false((pcall(method, other)))
      end
      assert.is_false((pcall(method)))
    end
  end)
end)

describe("the statistics", function()
  it("begin at zero", function()
    local stats = new_client():stats()
    assert.equal(0, stats.requests)
    assert.equal(0, stats.attempts)
    assert.same({}, stats.failures)
  end)

  it("count requests, attempts, and failures by their code", function()
    local client = new_client { retries = 1 }
    assert(client:fetch())
    stub:plan({ status = 503 }, {}, { status = 503 }, { status = 401 }, { status = 401 }, { status = 403 })
    assert(client:fetch())
    for _ = 1, 3 do assert.is_nil((client:fetch())) end
    assert.is_nil((client:fetch { id_token = "" }))
    local stats = client:stats()
    assert.equal(6, stats.requests)
    assert.equal(7, stats.attempts)
    assert.same({ unauthorized = 2, forbidden = 1, invalid_credential = 1 }, stats.failures)
  end)

  it("are whole numbers", function()
    local client = new_client()
    assert.is_nil((client:fetch { id_token = "" }))
    local stats = client:stats()
    if math.type then
      for _, count in ipairs { stats.requests, stats.attempts, stats.failures.invalid_credential } do
        assert.equal("integer", math.type(count))
      end
    end
  end)

  it("have the last transfer's timings in seconds", function()
    local client = new_client()
    stub:plan({ delay = { before = 0.3 } }, {})
    assert(client:fetch())
    local timings = client:stats().timings
    assert.equal(1, timings.connections)
    assert.is_true(timings.total >= 0.3 and timings.total < 20)
    local before = 0
    for _, name in ipairs { "namelookup", "connect", "appconnect", "pretransfer", "starttransfer", "total" } do
      assert.is_true(timings[name] >= before, name)
      before = timings[name]
    end
    assert(client:fetch())
    assert.equal(0, client:stats().timings.connections)
  end)

  it("are a plain table of their own, without a secret", function()
    local client = new_client()
    assert(client:fetch())
    local first = client:stats()
    assert.is_nil(getmetatable(first))
    first.requests = 100
    assert.equal(1, client:stats().requests)
    for name, value in pairs(client:stats()) do
      assert.is_string(name)
      assert.is_true(type(value) == "number" or type(value) == "table")
    end
  end)
end)
