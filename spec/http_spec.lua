-- Plain HTTP is used for this machine only, and no redirect or proxy receives a credential that is meant for the
-- endpoint.

local icptoken = require "icptoken"
local interpreter = require "support.interpreter"
local stub_client = require "stub.client"

local PATH = "/image-manager/api/v1/auth/token"

local stub

setup(function() stub = stub_client.share() end)
teardown(function() stub:stop() end)
before_each(function() stub:reset() end)

local function make_url(host, port)
  return ("http://%s:%d%s"):format(host, port or stub.ports.http, PATH)
end

local function options(changes)
  local all = { id_token = stub.id_token, timeout = 100, connect_timeout = 100 }
  for name, value in pairs(changes) do all[name] = value end
  return all
end

local function raise(changes, ...)
  local ok, problem = pcall(icptoken.new, options(changes))
  assert.is_false(ok)
  for _, words in ipairs { ... } do assert.matches(words, problem, 1, true) end
end

local function accept(changes)
  icptoken.new(options(changes)):close()
end

describe("plain http #short", function()
  it("to this machine returns a token", function()
    local token = assert(icptoken.fetch(options { url = make_url "127.0.0.1" }))
    assert.is_string(token.token)
    assert.equal("http", stub:last().listener)
    assert.equal("Bearer " .. stub.id_token, stub_client.header(stub:last(), "Authorization"))
  end)

  for _, host in ipairs { "localhost", "LocalHost", "127.0.0.1", "127.255.255.254", "127.1", "[::1]" } do
    it("is allowed to " .. host, function() accept { url = make_url(host) } end)
  end

  for _, host in ipairs {
    "mycluster.icp", "10.0.0.5", "0.0.0.0", "128.0.0.1", "[::2]", "[::]", "localhost.example", "127.0.0.1.example",
    "my-localhost", "xlocalhost",
  } do
    it("to " .. host .. " raises an error that names allow_http", function()
      raise({ url = make_url(host) }, "option 'url'", "allow_http")
    end)
  end

  it("to another host is sent with allow_http = true", function()
    local address = { ["mycluster.icp:" .. stub.ports.http] = "127.0.0.1" }
    assert(icptoken.fetch(options { url = make_url "mycluster.icp", allow_http = true, resolve = address }))
    assert.equal("http", stub:last().listener)
  end)

  it("to another host raises an error with allow_http = false, and nothing is sent", function()
    local address = { ["mycluster.icp:" .. stub.ports.http] = "127.0.0.1" }
    raise({ url = make_url "mycluster.icp", allow_http = false, resolve = address }, "allow_http")
    assert.same({}, stub:accepted())
  end)

  -- each: host, key of its resolve entry
  for _, case in ipairs {
    { "localhost", "localhost:%d" }, { "localhost", "LOCALHOST:%d" }, { "LOCALHOST", "localhost:%d" },
    { "127.0.0.1", "127.0.0.1:%d" }, { "localhost", "+localhost:%d" },
  } do
    it(("to %s raises an error if resolve has %s"):format(case[1], case[2]), function()
      raise({ url = make_url(case[1]), resolve = { [case[2]:format(stub.ports.http)] = "10.0.0.5" } }, "option '")
    end)
  end

  it("to this machine is allowed beside a resolve entry for another host", function()
    accept { url = make_url "localhost", resolve = { ["mycluster.icp:8443"] = "10.0.0.5" } }
  end)

  for _, host in ipairs { "localhost", "mycluster.icp" } do
    it("to " .. host .. " raises an error together with a proxy, also with allow_http", function()
      raise({ url = make_url(host), allow_http = true, proxy = "http://127.0.0.1:3128" }, "option 'proxy'")
    end)
  end

  it("is allowed with proxy = \"\"", function()
    assert(icptoken.fetch(options { url = make_url "localhost", proxy = "" }))
  end)
end)

describe("another scheme", function()
  for _, url in ipairs { "ftp://localhost/", "file:///etc/passwd", "gopher://localhost/", "dict://localhost/",
    "httpx://localhost/", "localhost.icp/path" } do
    it("raises an error: " .. url, function()
      raise({ url = url, allow_http = true }, "option 'url'")
    end)
  end
end)

describe("a proxy of the environment", function()
  local FETCH = [[
    local options = { url = arg[1], id_token_file = arg[2], allow_http = true, timeout = 100, connect_timeout = 100 }
    if arg[3] then options.resolve = { [arg[3] ] = "127.0.0.1" } end
    assert(require "icptoken".fetch(options))
  ]]

  local function fetch_beside_proxy(url, address)
    local proxy = "http://127.0.0.1:" .. stub.ports.proxy
    local ok, _, output = interpreter.run {
      code = FETCH, args = { url, stub.id_token_file, address },
      env = { http_proxy = proxy, HTTP_PROXY = proxy, https_proxy = proxy, all_proxy = proxy, ALL_PROXY = proxy,
        no_proxy = false, NO_PROXY = false },
    }
    assert.is_true(ok, output)
    assert.equal("http", stub:last().listener)
    assert.is_nil(stub:accepted().proxy)
  end

  for _, host in ipairs { "localhost", "127.0.0.1" } do
    it("is not used for plain http to " .. host, function() fetch_beside_proxy(make_url(host)) end)
  end

  it("is not used for plain http that allow_http permits", function()
    fetch_beside_proxy(make_url "mycluster.icp", "mycluster.icp:" .. stub.ports.http)
  end)
end)

describe("a redirect #short", function()
  local function fetch_redirected(order, changes)
    stub:plan(order)
    local all = { host = "localhost", port = stub.port, cacert = stub.ca }
    for name, value in pairs(changes or {}) do all[name] = value end
    return icptoken.fetch(options(all))
  end

  for _, status in ipairs { 301, 302, 303, 307, 308 } do
    it("with status " .. status .. " is not followed, and the message names where it pointed", function()
      local target = make_url "127.0.0.1"
      local token, message, code, details = fetch_redirected { status = status, redirect = target }
      assert.is_nil(token)
      assert.equal("redirect", code)
      assert.matches(target, message, 1, true)
      assert.equal(status, details.status)
      assert.equal(1, details.attempts)
      assert.is_false(details.retryable)
      assert.same({ https = 1 }, stub:accepted())
      assert.equal(1, #stub:requests())
    end)
  end

  it("to a path of the same server is not followed either", function()
    local _, message, code = fetch_redirected { redirect = "/login" }
    assert.equal("redirect", code)
    assert.matches("/login", message, 1, true)
    assert.equal(1, #stub:requests())
  end)

  it("to another listener over https is not followed", function()
    local _, _, code = fetch_redirected { redirect = "https://localhost:" .. stub.ports.h1 .. PATH }
    assert.equal("redirect", code)
    assert.same({ https = 1 }, stub:accepted())
  end)

  it("over HTTP/2 is not followed", function()
    local _, _, code = fetch_redirected({ redirect = make_url "127.0.0.1" }, { http_version = "2" })
    assert.equal("redirect", code)
    assert.same({ https = 1 }, stub:accepted())
  end)

  it("without a Location is reported as one", function()
    local _, message, code = fetch_redirected { status = 302 }
    assert.equal("redirect", code)
    assert.matches("redirects to nowhere", message, 1, true)
  end)

  it("is shown without the user and the query of its Location", function()
    local _, message = fetch_redirected { redirect = "https://joe:pass-of-joe@login.example/path?code=4711#part" }
    assert.matches("https://login.example/path", message, 1, true)
    for _, hidden in ipairs { "joe", "4711", "part" } do assert.not_matches(hidden, message, 1, true) end
  end)
end)
