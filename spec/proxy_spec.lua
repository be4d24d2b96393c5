-- Proxies: from the options or the environment, with a CONNECT that contains nothing meant for the endpoint, and with
-- failures that are distinguished from the endpoint's own.

local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"

local PASSWORD = "proxy-secret"

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function make_proxy(port)
  return ("http://joe:%s@127.0.0.1:%d"):format(PASSWORD, port or stub.ports.proxy)
end

local function options(changes)
  local all = { host = "localhost", port = stub.port, cacert = stub.ca, id_token = stub.id_token, timeout = 100,
    connect_timeout = 100 }
  for name, value in pairs(changes or {}) do all[name] = value or nil end
  return all
end

-- The requests that a listener received.
local function requests_to(listener)
  local requests = {}
  for _, request in ipairs(stub:requests()) do
    if request.listener == listener then requests[#requests + 1] = request end
  end
  return requests
end

local function assert_went_through_proxy()
  assert.equal(1, #requests_to "proxy")
  assert.equal("CONNECT", requests_to "proxy"[1].method)
  assert.equal(1, #requests_to "https")
end

local function assert_went_past_proxy()
  assert.same({ https = 1 }, stub:accepted())
  assert.equal(1, #requests_to "https")
end

describe("a request through a proxy #short", function()
  it("opens a tunnel to the endpoint, and returns a token", function()
    local token = assert(icptoken.fetch(options { proxy = make_proxy() }))
    assert.is_string(token.token)
    assert_went_through_proxy()
    assert.equal("localhost:" .. stub.port, requests_to "proxy"[1].target)
  end)

  it("may name the proxy without a scheme", function()
    assert(icptoken.fetch(options { proxy = "127.0.0.1:" .. stub.ports.proxy }))
    assert_went_through_proxy()
  end)

  it("leaves the DNS lookup of the endpoint to the proxy", function()
    assert(icptoken.fetch(options { proxy = make_proxy(), host = "mycluster.icp" }))
    assert.equal("mycluster.icp:" .. stub.port, requests_to "proxy"[1].target)
  end)

  it("verifies the endpoint's certificate through the tunnel", function()
    local _, message, code = icptoken.fetch(options { proxy = make_proxy(), port = stub.ports.unknown_ca })
    assert.equal("tls", code)
    assert.matches(stub.ca, message, 1, true)
  end)

  it("keeps the tunnel for the next request", function()
    local client = icptoken.new(options { proxy = make_proxy() })
    assert(client:fetch())
    assert(client:fetch())
    client:close()
    assert.equal(1, #requests_to "proxy")
    assert.equal(2, #requests_to "https")
  end)

  -- each: what the credential is, its options, and the scheme it is sent under
  for _, case in ipairs {
    { "an ID token", function() return {} end, "Bearer" },
    { "a user name and password", function()
      return { id_token = false, username = stub.username, password = stub.password }
    end, "Basic" },
  } do
    it("sends " .. case[1] .. " to the endpoint, and not to the proxy", function()
      local changes = case[2]()
      changes.proxy, changes.headers = "http://127.0.0.1:" .. stub.ports.proxy, { ["X-Team"] = "blue" }
      assert(icptoken.fetch(options(changes)))
      local connect, get = requests_to "proxy"[1], requests_to "https"[1]
      assert.matches("^" .. case[3] .. " ", stub_client.header(get, "Authorization"))
      assert.equal("blue", stub_client.header(get, "X-Team"))
      for _, name in ipairs { "Authorization", "Proxy-Authorization", "X-Team", "Accept" } do
        assert.is_nil(stub_client.header(connect, name), name)
      end
    end)
  end

  it("sends the proxy's password to the proxy, and not to the endpoint", function()
    stub:set { proxy_auth = "joe:" .. PASSWORD }
    assert(icptoken.fetch(options { proxy = make_proxy() }))
    assert.matches("^Basic ", stub_client.header(requests_to "proxy"[1], "Proxy-Authorization"))
    assert.is_nil(stub_client.header(requests_to "https"[1], "Proxy-Authorization"))
  end)
end)

describe("the option", function()
  it("no_proxy names hosts that are contacted directly", function()
    assert(icptoken.fetch(options { proxy = make_proxy(), no_proxy = "example.com,localhost" }))
    assert_went_past_proxy()
  end)

  it("no_proxy = \"*\" names all hosts", function()
    assert(icptoken.fetch(options { proxy = make_proxy(), no_proxy = "*" }))
    assert_went_past_proxy()
  end)

  it("no_proxy leaves other hosts to the proxy", function()
    assert(icptoken.fetch(options { proxy = make_proxy(), no_proxy = "example.com" }))
    assert_went_through_proxy()
  end)
end)

describe("the environment's proxy", function()
  local FETCH = [[
    local options = { host = "localhost", port = tonumber(arg[1]), cacert = arg[2], id_token_file = arg[3],
      timeout = 100, connect_timeout = 100, retries = 0 }
    for i = 4, #arg, 2 do options[arg[i] ] = arg[i + 1] end
    local token, message, code = require "icptoken".fetch(options)
    print(token and "token" or code, message)
  ]]

  -- Fetches in a child with no more proxy variables than those given.
  local function fetch_with(variables, ...)
    local environment = {}
    for _, name in ipairs { "http_proxy", "https_proxy", "all_proxy", "no_proxy" } do
      environment[name], environment[name:upper()] = false, false
    end
    for name, value in pairs(variables) do environment[name] = value end
    local ok, _, output = interpreter.run {
      code = FETCH, args = { tostring(stub.port), stub.ca, stub.id_token_file, ... }, env = environment,
    }
    assert.is_true(ok, output)
    return output
  end

  for _, name in ipairs { "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY" } do
    it("is taken from " .. name, function()
      assert.matches("^token", fetch_with { [name] = make_proxy() })
      assert_went_through_proxy()
    end)
  end

  for _, name in ipairs { "http_proxy", "HTTP_PROXY" } do
    it("is not taken from " .. name, function()
      assert.matches("^token", fetch_with { [name] = make_proxy() })
      assert_went_past_proxy()
    end)
  end

  for _, name in ipairs { "no_proxy", "NO_PROXY" } do
    it("is not used for hosts in " .. name, function()
      assert.matches("^token", fetch_with { https_proxy = make_proxy(), [name] = "localhost" })
      assert_went_past_proxy()
    end)
  end

  it("is turned off by proxy = \"\"", function()
    assert.matches("^token", fetch_with({ https_proxy = make_proxy(), all_proxy = make_proxy() }, "proxy", ""))
    assert_went_past_proxy()
  end)

  it("is overridden by the option proxy", function()
    local refusing = make_proxy(stub.ports.refuse)
    assert.matches("^token", fetch_with({ https_proxy = refusing }, "proxy", make_proxy()))
    assert_went_through_proxy()
  end)

  it("is not used for hosts in the option no_proxy", function()
    assert.matches("^token", fetch_with({ https_proxy = make_proxy() }, "no_proxy", "localhost"))
    assert_went_past_proxy()
  end)

  it("that cannot be reached is reported as the proxy's failure, without its password", function()
    local output = fetch_with { https_proxy = make_proxy(stub.ports.refuse) }
    assert.matches("^proxy\tcannot connect to the proxy", output)
    assert.not_matches(PASSWORD, output, 1, true)
  end)
end)

-- Each: what is wrong, the options, the words of the message, whether the failure is retryable.
local FAILURES = {
  { "a proxy that refuses connections", function()
    return { proxy = make_proxy(stub.ports.refuse) }
  end, "cannot connect to the proxy on the way to localhost:%d: connection refused", true },
  { "a proxy that refuses connections on the endpoint's own port number", function()
    return { host = "mycluster.icp", port = stub.ports.refuse, proxy = make_proxy(stub.ports.refuse) }
  end, "cannot connect to the proxy", true },
  { "a proxy whose name is unknown", function()
    return { proxy = "http://joe:" .. PASSWORD .. "@no-such-proxy.invalid:3128" }
  end, "cannot find the address of the proxy on the way to localhost:%d; the proxy no-such-proxy.invalid:3128 "
    .. "comes from option proxy", true },
  { "a proxy whose URL is not one", function()
    return { proxy = "http://joe:" .. PASSWORD .. "@:99999" }
  end, "the proxy comes from option proxy", true },
  { "a proxy that wants another password", function()
    stub:set { proxy_auth = "joe:another" }
    return { proxy = make_proxy() }
  end, "status 407; put its user name and password into the proxy's URL", false },
  { "a proxy that does not go there", function()
    return { proxy = make_proxy(), host = "denied.test" }
  end, "did not open a tunnel to denied.test:%d: it answered with status 403", false },
  { "a proxy that cannot reach the endpoint", function()
    return { proxy = make_proxy(), port = stub.ports.refuse }
  end, "it answered with status 502", true },
  { "a proxy that redirects", function()
    local location = { "Location", "http://127.0.0.1:" .. stub.ports.http .. "/" }
    stub:plan { listener = "proxy", status = 302, headers = { location } }
    return { proxy = make_proxy() }
  end, "it answered with status 302", false },
  { "a proxy over TLS whose certificate is not trusted", function()
    return { proxy = "https://joe:" .. PASSWORD .. "@127.0.0.1:" .. stub.ports.unknown_ca }
  end, "proxy", false, "tls" },
}

describe("a failure of", function()
  for _, case in ipairs(FAILURES) do
    local what, prepare, words, retryable, wanted = case[1], case[2], case[3], case[4], case[5] or "proxy"

    it(("%s is reported with the code %s, and the message says what to do"):format(what, wanted), function()
      local changes = prepare()
      changes.retries = 0
      local token, message, code, details = icptoken.fetch(options(changes))
      assert.is_nil(token)
      assert.equal(wanted, code, message)
      assert.matches(words:format(stub.port), message, 1, true)
      assert.equal(retryable, details.retryable)
      assert.is_nil(details.status)
      assert.not_matches(PASSWORD, message, 1, true)
      assert.same({}, requests_to "https")
      assert.is_nil(stub:accepted().http)
    end)
  end

  -- each: what a proxy does, the order for it, the code, words of the message
  local misbehaviours = {
    { "answers garbage", { raw = "garbage\r\n\r\n", ["end"] = "close" }, "proxy", "is not HTTP" },
    { "is something else", { raw = "SSH-2.0-OpenSSH_9.2\r\n", ["end"] = "close" }, "proxy", "proxy on the way" },
    { "answers bytes", { raw = "\0\1\2\3", ["end"] = "close" }, "proxy", "proxy on the way" },
    { "cuts its answer off", { raw = "HTTP/1.1 20", ["end"] = "close" }, "proxy", "proxy on the way" },
    { "closes", { raw = "", ["end"] = "close" }, "proxy", "closed the connection before it answered" },
    { "resets", { raw = "", ["end"] = "reset" }, "proxy", "closed the connection before it answered" },
    { "hangs", { raw = "", ["end"] = "hold" }, "timeout", "the proxy on the way did not open a tunnel" },
    { "closes its tunnel", { raw = "HTTP/1.1 200 OK\r\n\r\n", ["end"] = "close" }, "network",
      "closed before an answer arrived" },
    { "hangs in its tunnel", { raw = "HTTP/1.1 200 OK\r\n\r\n", ["end"] = "hold" }, "timeout", "cannot connect to" },
    { "answers garbage in its tunnel", { raw = "HTTP/1.1 200 OK\r\n\r\n" .. ("garbage"):rep(9), ["end"] = "close" },
      "tls", "cannot agree on TLS" },
  }
  for _, case in ipairs(misbehaviours) do
    for source, from in pairs { ["the option"] = "option proxy", ["the environment"] = "the environment's %s" } do
      it(("a proxy of %s that %s names the proxy, and where it is configured"):format(source, case[1]), function()
        local order = { listener = "proxy" }
        for name, value in pairs(case[2]) do order[name] = value end
        stub:plan(order)
        local changes = { retries = 0, timeout = case[2]["end"] == "hold" and 2 or 60 }
        local message, code, retryable
        if source == "the option" then
          changes.proxy = make_proxy()
          local _, text, name, details = icptoken.fetch(options(changes))
          message, code, retryable = text, name, details.retryable
        else
          from = from:format "https_proxy"
          local ok, _, output = interpreter.run {
            env = { https_proxy = make_proxy(), no_proxy = false, NO_PROXY = false },
            args = { tostring(stub.port), stub.ca, stub.id_token, tostring(changes.timeout) },
            code = [[
              local _, message, code, details = require "icptoken".fetch { host = "localhost", port = tonumber(arg[1]),
                cacert = arg[2], id_token = arg[3], timeout = tonumber(arg[4]), retries = 0 }
              print(code, details.retryable)
              print(message)
            ]] }
          assert.is_true(ok, output)
          code, retryable, message = output:match "^(%S+)\t(%S+)\n(.*)"
          retryable = retryable == "true"
        end
        assert.equal(case[3], code, message)
        assert.equal(case[3] ~= "tls", retryable)
        assert.matches(case[4], message, 1, true)
        assert.matches(("; the proxy 127.0.0.1:%d comes from %s"):format(stub.ports.proxy, from), message, 1, true)
        assert.not_matches(PASSWORD, message, 1, true)
        assert.not_matches("joe", message, 1, true)
      end)
    end
  end

  -- libcurl 8.14 to 8.19 report such a name as the endpoint's
  it("the lookup of a proxy's name is the proxy's, however soon it is over", function()
    local NAMES = { host = "a-host.invalid", proxy = "http://a-proxy.invalid:3128" }
    for _, case in ipairs {
      { { proxy = NAMES.proxy }, "proxy", "cannot find the address of the proxy on the way to localhost" },
      { { proxy = NAMES.proxy, host = NAMES.host }, "proxy", "the proxy a-proxy.invalid:3128 comes from option proxy" },
      { { proxy = NAMES.proxy, host = NAMES.host, no_proxy = "*" }, "resolve", "cannot find the address of a-host" },
      { { proxy = "", host = NAMES.host }, "resolve", "cannot find the address of a-host.invalid" },
    } do
      local changes, code, words = case[1], case[2], case[3]
      local ok, _, output = interpreter.run {
        preload = "build/quick_resolver.so",
        args = { changes.host or "localhost", changes.proxy, changes.no_proxy or "" },
        code = [[
          local _, message, code = require "icptoken".fetch { host = arg[1], id_token = "opaque", retries = 0,
            proxy = arg[2], no_proxy = arg[3] ~= "" and arg[3] or nil }
          print(code, message)
        ]] }
      assert.is_true(ok, output)
      assert.matches("^" .. code .. "\t", output)
      assert.matches(words, output, 1, true)
    end
  end)

  it("a proxy whose password may have been parsed as its host does not show it", function()
    for _, proxy in ipairs { "http://joe:1/" .. PASSWORD .. "@127.0.0.1", "http://" .. PASSWORD .. "/x@127.0.0.1:1",
      PASSWORD .. "?@127.0.0.1:1", "http://joe:" .. PASSWORD .. "#@127.0.0.1:1" } do
      local _, message = icptoken.fetch(options { proxy = proxy, retries = 0 })
      assert.not_matches(PASSWORD, message, 1, true)
      assert.not_matches("joe", message, 1, true)
    end
  end)

  it("a proxy of another kind is refused when the client is created", function()
    for _, scheme in ipairs { "ftp", "file", "", "httpx", "socks", "socks6", "h2" } do
      local proxy = scheme .. "://joe:" .. PASSWORD .. "@127.0.0.1:" .. stub.ports.proxy
      local ok, message = pcall(icptoken.new, options { proxy = proxy })
      assert.is_false(ok, scheme)
      assert.matches("option 'proxy' must begin with http://", message, 1, true)
      assert.not_matches(PASSWORD, message, 1, true)
    end
    for _, scheme in ipairs { "http", "HTTP", "https", "socks4", "socks4a", "socks5", "Socks5h" } do
      icptoken.new(options { proxy = scheme .. "://127.0.0.1:1" }):close()
    end
  end)

  -- libcurl before 8.1 would append the line to freed memory (see answer_spec.lua), and from 8.3 on it reads it
  it("a proxy whose first header line is a continuation harms no client, and is not the endpoint's", function()
    local client = icptoken.new(options { proxy = make_proxy(), retries = 0 })
    for _ = 1, 2 do
      stub:plan { keep_alive = false }
      assert(client:fetch())
      stub:plan { listener = "proxy", raw = "HTTP/1.1 200 OK\r\n\tX-Folded: " .. ("x"):rep(200) .. "\r\n\r\n" }
      local _, message, code = client:fetch()
      assert.is_true(code == "proxy" or code == "network" or code == "tls", code)
      if code == "proxy" then assert.matches("the answer of the proxy on the way to", message, 1, true) end
    end
    client:close()
  end)

  it("a proxy that may be transient is retried", function()
    stub:plan { listener = "proxy", status = 503 }
    assert(icptoken.fetch(options { proxy = make_proxy() }))
    assert.equal(2, #requests_to "proxy")
  end)

  it("a proxy that refuses the password is not retried", function()
    stub:set { proxy_auth = "joe:another" }
    local _, _, _, details = icptoken.fetch(options { proxy = make_proxy() })
    assert.equal(1, details.attempts)
  end)

  -- each: the endpoint's name, and the address to which resolve maps it; no proxy is used, or no_proxy excludes it
  for _, case in ipairs { { "localhost" }, { "LocalHost" }, { "127.0.0.1" }, { "::1" }, { "[::1]" },
    { "mycluster.icp", "127.0.0.1" }, { "mycluster.icp", "::1" } } do
    local host, address = case[1], case[2]

    it(("the endpoint %s (%s) is not reported as a proxy's"):format(host, address or "looked up"), function()
      local resolve = address and { [host .. ":" .. stub.ports.refuse] = address }
      for _, proxy in ipairs { false, make_proxy(), make_proxy(stub.ports.refuse) } do
        local _, message, code = icptoken.fetch(options { host = host, port = stub.ports.refuse, retries = 0,
          resolve = resolve, proxy = proxy, no_proxy = proxy and "*" })
        assert.equal("connect", code, message)
        assert.not_matches("proxy", message, 1, true)
      end
    end)
  end

  it("the endpoint behind a proxy is reported as the endpoint's", function()
    stub:plan { status = 403 }
    local _, _, code, details = icptoken.fetch(options { proxy = make_proxy() })
    assert.equal("forbidden", code)
    assert.equal(403, details.status)
  end)
end)
