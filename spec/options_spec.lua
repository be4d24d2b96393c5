-- Wrong options raise an error before anything is sent, with the option's name and without its value.
describe("options", function()
  local icptoken = require "icptoken"
  local good = { host = "mycluster.icp", anonymous = true }

  local function with(changes)
    local options = {}
    for name, value in pairs(good) do options[name] = value end
    for name, value in pairs(changes) do options[name] = value end
    if changes.url then options.host = nil end
    return options
  end

  local function refusal(options)
    local ok, message = pcall(icptoken.new, options)
    assert.is_false(ok)
    assert.is_string(message)
    assert.is_nil(message:find "\n")
    return message
  end

  local function assert_refused(options, ...)
    local message = refusal(options)
    for _, words in ipairs { ... } do assert.matches(words, message, 1, true) end
  end

  local nan, infinity = 0 / 0, 1 / 0

  it("are a table", function()
    for _, value in ipairs { "text", 1, true } do
      assert.is_false((pcall(icptoken.new, value)))
      assert.is_false((pcall(icptoken.fetch, value)))
    end
    assert.is_false((pcall(icptoken.new)))
  end)

  local wrong_types = {
    host = { 1, true, {} }, port = { "8443", true }, path = { 1 }, url = { 1 }, allow_http = { 1, "yes" },
    id_token = { 1, true, {} }, id_token_file = { 1 }, username = { 1 }, password = { 1 },
    anonymous = { 1, "yes" }, service = { 1, {} }, scope = { 1, true, { 1 }, { a = "b" }, { "a", [3] = "b" } },
    account = { 1 }, client_id = { 1 }, offline_token = { "true", 1 }, cacert = { 1 }, capath = { 1 },
    insecure = { 1, "true" }, cert = { 1 }, key = { 1 }, key_password = { 1 },
    pinned_public_key = { 1 }, tls_min = { 1.2 }, certificates = { 1, "yes" },
    timeout = { "30", true }, connect_timeout = { "1" }, retries = { "2" },
    hedge_after = { "1", true }, proxy = { 1, false }, no_proxy = { 1 }, resolve = { "a:1", 1 },
    http_version = { 1.1 }, headers = { "A: b", 1 }, user_agent = { 1 }, max_body_bytes = { "1" },
    parallel = { "2", true, {} }, cache_size = { "2", true, {} }, login = { 1, true, "admin", print },
  }
  for name, values in pairs(wrong_types) do
    it("refuse a wrong type for " .. name, function()
      for _, value in ipairs(values) do assert_refused(with { [name] = value }, "'" .. name .. "'") end
    end)
  end

  local wrong_values = {
    { "port", { 0, -1, 65536, 1.5, nan, infinity } },
    { "timeout", { 0, -1, nan, infinity, -infinity, 2147484, 1e300 } },
    { "connect_timeout", { 0, -0.5, nan, infinity, 2147484 } },
    { "hedge_after", { 0, -1, nan, infinity } },
    { "retries", { -1, 1.5, nan, infinity, 101 } },
    { "max_body_bytes", { 0, -1, 0.5, infinity } },
    { "parallel", { 0, -1, 257, 1.5, nan, infinity } },
    { "cache_size", { 0, -1, 2 ^ 20 + 1, 1.5, nan, infinity } },
    { "login", { {}, { username = "a" }, { password = "b" }, { "a", "b" }, { username = "a", password = 1 },
      { username = "", password = "b" }, { username = "a", password = "b\n" },
      { username = "a", password = "b", scope = "c" } } },
    { "tls_min", { "1.1", "1.4", "", "TLSv1.2" } },
    { "http_version", { "1.0", "3", "", "2.0" } },
    { "host", { "", "a/b", "a?b", "a#b", "user@host", "a%41", "a:8443", "a b", "[::1", "fe80::1%eth0",
      "a\\b" } },
    { "path", { "", "no/slash", "/a?b=c", "/a#b", "/a b" } },
    { "url", { "", "https://h:0/", "https://h:00/t", "https://[::1]:0/", "http://127.0.0.1:0/t" } },
    { "url", { "ftp://a/b", "file:///etc/passwd", "https://user:pw@a/b", "https://a/b#c",
      "https:///b", "a b", "https://a:99999/b", "http://other.example/b", "mailto:a" } },
    { "headers", { { ["A b"] = "c" }, { [""] = "c" }, { ["A:"] = "c" }, { ["A\n"] = "c" }, { "A: b" },
      { A = 1 }, { A = "b\r\nC: d" }, { A = "b\0c" } } },
    { "resolve", { { ["a"] = "10.0.0.5" }, { ["a:0"] = "10.0.0.5" }, { ["a:99999"] = "10.0.0.5" },
      { ["a:1"] = "b.example" }, { ["a:1"] = "" }, { ["*:1"] = "10.0.0.5" }, { [":1"] = "10.0.0.5" },
      { ["a:1"] = "10.0.0.5,b" }, { ["a:1"] = "10.0.0.5," },
      { ["a:1"] = "10.0.0.5 10.0.0.6" }, { ["a:1"] = {} }, { ["a:1"] = { "10.0.0.5", 1 } }, { ["a:1"] = { "b" } },
      { ["a:1"] = { "10.0.0.5", x = "10.0.0.6" } }, { ["a:1"] = ",10.0.0.5" }, { "10.0.0.5" },
      { ["a:1x"] = "10.0.0.5" } } },
    { "scope", { ("a"):rep(9e6), { ("a"):rep(9e6) } } }, { "service", { ("a"):rep(9e6) } },
    { "cacert", { "" } }, { "capath", { "" } }, { "id_token_file", { "" } },
  }
  local inherit = { __index = { cacert = "/etc/icp/ca.crt" } }

  it("that are inherited through a metatable raise an error, in every table", function()
    local function refuse(message, call, ...)
      local ok, problem = pcall(call, ...)
      assert.is_false(ok)
      assert.matches(message, problem, 1, true)
      assert.matches("__index", problem, 1, true)
    end
    for _, meta in ipairs { inherit, { __index = function() end } } do
      local given = { host = "a", id_token = "b" }
      refuse("the table", icptoken.new, setmetatable(given, meta))
      refuse("the table", icptoken.fetch, setmetatable({ host = "a", id_token = "b" }, meta))
      refuse("the table", icptoken.login, setmetatable({ host = "a", username = "a", password = "b" }, meta))
      for _, name in ipairs { "headers", "resolve", "login", "scope" } do
        local value = name == "login" and { username = "a", password = "b" } or {}
        local options = { host = "a", [name] = setmetatable(value, meta) }
        if name ~= "login" then options.anonymous = true end
        refuse("'" .. name .. "'", icptoken.new, options)
      end
      refuse("'resolve'", icptoken.new, { host = "a", anonymous = true,
        resolve = { ["a:1"] = setmetatable({ "10.0.0.1" }, meta) } })
      local client = icptoken.new { host = "a", anonymous = true }
      refuse("the table", client.fetch, client, setmetatable({}, meta))
      refuse("the table", client.token, client, setmetatable({}, meta))
      refuse("the table", client.fetch_all, client, { setmetatable({}, meta) })
      refuse("", client.fetch_all, client, setmetatable({}, meta))
      client:close()
    end
  end)

  it("may have a metatable through which nothing is inherited", function()
    local options = setmetatable({ host = "a", anonymous = true }, { __name = "x", __gc = function() end })
    icptoken.new(options):close()
  end)

  it("may name several addresses, as a list or separated by commas", function()
    for _, addresses in ipairs { { "10.0.0.5", "::1" }, "10.0.0.5,10.0.0.6", "10.0.0.5, [::1] ,::2", { "[::1]" },
      { "10.0.0.5,10.0.0.6", "10.0.0.7" } } do
      icptoken.new({ host = "a", anonymous = true, resolve = { ["a:1"] = addresses } }):close()
    end
  end)

  it("may contain an empty password", function()
    icptoken.new({ host = "a", username = "joe", password = "" }):close()
    assert_refused({ host = "a", login = { username = "joe", password = "" } }, "'login'")
  end)

  for _, case in ipairs(wrong_values) do
    local name, values = case[1], case[2]
    it("refuse a wrong value for " .. name, function()
      for _, value in ipairs(values) do assert_refused(with { [name] = value }, "'" .. name .. "'") end
    end)
  end

  it("refuse headers that the caller must not set", function()
    for _, name in ipairs { "Authorization", "Proxy-Authorization", "Host", "Content-Length",
      "Transfer-Encoding", "Connection", "Cookie", "Expect" } do
      assert_refused(with { headers = { [name] = "x" } }, "'headers'", name)
      assert_refused(with { headers = { [name:lower()] = "x" } }, "'headers'")
      assert_refused(with { headers = { [name:upper()] = "" } }, "'headers'")
    end
  end)

  it("refuse a control character in any string but an ID token", function()
    local strings = { "host", "path", "url", "id_token_file", "username", "password", "service", "scope",
      "account", "client_id", "cacert", "capath", "cert", "key", "key_password", "pinned_public_key",
      "tls_min", "proxy", "no_proxy", "http_version", "user_agent" }
    for _, name in ipairs(strings) do
      for _, control in ipairs { "\0", "\n", "\r", "\t", "\27", "\127" } do
        local value = name == "url" and "https://a/b" .. control or "/a" .. control .. "b"
        assert_refused(with { [name] = value }, "'" .. name .. "'", "control character")
      end
    end
    assert_refused(with { scope = { "a", "b\nc" } }, "'scope'", "control character")
  end)

  it("accept an ID token with any bytes, which is checked by the fetch", function()
    local client = icptoken.new { host = "localhost", port = 1, id_token = "a\nb\0c" }
    local token, message, code = client:fetch()
    assert.is_nil(token)
    assert.is_string(message)
    assert.equal("invalid_credential", code)
    client:close()
  end)

  describe("that are unknown", function()
    local cases = {
      hots = "host", tiemout = "timeout", cacret = "cacert", ca_cert = "cacert", scopes = "scope",
      retry = "retries", id_tokn = "id_token", header = "headers", insecur = "insecure",
      connecttimeout = "connect_timeout",
    }
    for wrong, near in pairs(cases) do
      it("are refused: " .. wrong .. " with the nearest, " .. near, function()
        assert_refused(with { [wrong] = "x" }, "'" .. wrong .. "'", "'" .. near .. "'")
      end)
    end

    it("are refused without a suggestion if none is near", function()
      local message = refusal(with { completely_different = 1 })
      assert.matches("'completely_different'", message, 1, true)
      assert.is_nil(message:find("did you mean", 1, true))
    end)

    it("are refused if their name is not a plain string", function()
      refusal(with { [1] = "x" })
      refusal(with { [true] = "x" })
      refusal(with { [("x"):rep(1000)] = "x" })
      refusal(with { ["a\nb"] = "x" })
    end)
  end)

  describe("of the credential", function()
    local token, file = { id_token = "a" }, { id_token_file = "/a" }
    local basic, anonymous = { username = "a", password = "b" }, { anonymous = true }
    local login, call = { login = { username = "a", password = "b" } }, { id_token = print }

    local function both(first, second)
      local options = { host = "a" }
      for name, value in pairs(first) do options[name] = value end
      for name, value in pairs(second or {}) do options[name] = value end
      return options
    end

    it("must be one", function()
      for _, one in ipairs { token, file, basic, anonymous, login, call } do
        icptoken.new(both(one)):close()
      end
    end)

    it("must not be none", function()
      assert_refused({ host = "a" }, "no credential", "id_token")
      assert_refused({ host = "a", anonymous = false }, "no credential")
    end)

    it("must not be two", function()
      local all = { token, file, basic, anonymous, login }
      for _, one in ipairs { file, basic, anonymous, login } do
        assert_refused(both(call, one), "more than one credential")
      end
      for i = 1, #all do
        for j = i + 1, #all do assert_refused(both(all[i], all[j]), "more than one credential") end
      end
    end)

    it("must be name and password together, the name without a colon", function()
      assert_refused({ host = "a", username = "u" }, "'username'", "'password'")
      assert_refused({ host = "a", password = "p" }, "'password'", "'username'")
      assert_refused({ host = "a", username = "u:v", password = "p" }, "'username'", "colon")
    end)
  end)

  describe("of the endpoint", function()
    it("must be either host or url", function()
      assert_refused({ anonymous = true }, "'host'", "'url'")
      for _, name in ipairs { "host", "path" } do
        assert_refused({ url = "https://a/b", [name] = "/a", anonymous = true }, "'url'")
      end
      assert_refused({ url = "https://a/b", port = 1, anonymous = true }, "'url'")
    end)

    it("may be an IPv6 address with brackets and without", function()
      for _, host in ipairs { "::1", "[::1]", "2001:db8::5" } do
        local client = icptoken.new(with { host = host })
        assert.matches("]:8443", tostring(client), 1, true)
        client:close()
      end
    end)

    it("must be https, or http to this machine, or http with allow_http", function()
      for _, host in ipairs { "localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]" } do
        icptoken.new(with { url = "http://" .. host .. ":8080/t" }):close()
      end
      for _, host in ipairs { "a", "localhost.example", "128.0.0.1", "[::2]", "0.0.0.0", "127.0.0.1.nip.io" } do
        assert_refused(with { url = "http://" .. host .. "/t" }, "'url'", "allow_http")
        icptoken.new(with { url = "http://" .. host .. "/t", allow_http = true }):close()
      end
    end)

    it("do not treat a name that resolve maps elsewhere as this machine", function()
      assert_refused(with { url = "http://localhost:80/t", resolve = { ["localhost:80"] = "10.0.0.5" } },
        "'url'", "allow_http")
    end)

    it("do not send a plain http request to a proxy", function()
      assert_refused(with { url = "http://a/t", allow_http = true, proxy = "http://p:3128" }, "'proxy'")
      assert_refused(with { url = "http://localhost/t", proxy = "http://p:3128" }, "'proxy'")
      icptoken.new(with { url = "http://localhost/t", proxy = "" }):close()
    end)
  end)

  it("of a key need a certificate", function()
    assert_refused(with { key = "/k" }, "'key'", "'cert'")
  end)

  it("never appear in messages with their value", function()
    local value = "hunter2secret"
    for name in pairs(wrong_types) do
      local ok, message = pcall(icptoken.new, with { [name] = { [value] = value .. "\n" } })
      assert.is_false(ok)
      if name ~= "headers" and name ~= "resolve" then
        assert.is_nil(message:find(value, 1, true), message)
      end
    end
    for _, name in ipairs { "id_token_file", "password", "key_password", "proxy" } do
      assert.is_nil(refusal(with { [name] = value .. "\n" }):find(value, 1, true))
    end
  end)

  it("of a login are those of endpoint, TLS and network, with a user name and a password", function()
    local own = { service = "a", scope = "a", account = "a", client_id = "a", offline_token = true, id_token = "a",
      id_token_file = "a", anonymous = true, login = {}, parallel = 2, cache_size = 2, realm = "a", error = "a" }
    for name, value in pairs(own) do
      local ok, message = pcall(icptoken.login, { host = "a", username = "a", password = "b", [name] = value })
      assert.is_false(ok)
      assert.matches("'" .. name .. "' is not an option of icptoken.login", message, 1, true)
    end
    for name, values in pairs(wrong_types) do
      for _, value in ipairs(values) do
        local options = { host = "a", username = "a", password = "b", [name] = value }
        local ok, message = pcall(icptoken.login, options)
        assert.is_false(ok)
        assert.matches("'" .. name .. "'", message, 1, true)
      end
    end
  end)

  it("are copied: what the caller changes later has no effect", function()
    local options = with { scope = { "a" } }
    local client = icptoken.new(options)
    options.host, options.scope[1] = "elsewhere", "b"
    assert.equal("icptoken.client (mycluster.icp:8443)", tostring(client))
    client:close()
  end)

  describe("of a request", function()
    local client
    setup(function() client = icptoken.new(good) end)
    teardown(function() client:close() end)

    local function assert_request_refused(request, ...)
      local ok, message = pcall(client.fetch, client, request)
      assert.is_false(ok)
      for _, words in ipairs { ... } do assert.matches(words, message, 1, true) end
    end

    it("must be a table or absent", function()
      for _, request in ipairs { "repository:a:pull", 1, true } do
        assert.is_false((pcall(client.fetch, client, request)))
      end
    end)

    it("must be those of a request", function()
      for _, name in ipairs { "host", "cacert", "insecure", "proxy", "id_token_file", "anonymous" } do
        assert_request_refused({ [name] = "x" }, "'" .. name .. "'", "belongs to the client")
      end
      assert_refused(with { realm = "x" }, "'realm'", "belongs to a request")
      assert_request_refused({ scop = "x" }, "'scop'", "'scope'")
    end)

    it("must not set a header that is reserved", function()
      for _, name in ipairs { "Authorization", "host", "Accept", "A b" } do
        assert_request_refused({ headers = { [name] = "x" } }, "'headers'")
      end
      assert_request_refused({ headers = "X: y" }, "'headers'", "a table")
      assert_request_refused({ headers = { X = "y\n" } }, "'headers'")
    end)

    it("of client:token and client:fetch_all must not have a credential or limits", function()
      local own = { id_token = "a", username = "a", password = "b", timeout = 1, retries = 0, headers = { a = "b" } }
      for name, value in pairs(own) do
        for call, request in pairs { token = { [name] = value }, fetch_all = { { [name] = value } } } do
          local ok, message = pcall(client[call], client, request)
          assert.is_false(ok)
          assert.matches("'" .. name .. "'", message, 1, true)
          assert.matches("client:fetch", message, 1, true)
        end
      end
    end)

    it("may contain realm and error, as a challenge does, if they are strings", function()
      for _, name in ipairs { "realm", "error" } do
        assert_request_refused({ [name] = 1 }, "'" .. name .. "'")
        assert_request_refused({ [name] = "a\n" }, "'" .. name .. "'", "control character")
        assert_refused(with { [name] = "x" }, "'" .. name .. "'", "belongs to a request")
      end
    end)

    it("must not have more than one credential", function()
      assert_request_refused({ id_token = "a", username = "u", password = "p" }, "more than one credential")
      assert_request_refused({ username = "u" }, "'password'")
    end)

    it("are checked like the client's", function()
      assert_request_refused({ timeout = 0 }, "'timeout'")
      assert_request_refused({ retries = -1 }, "'retries'")
      assert_request_refused({ scope = { 1 } }, "'scope'")
      assert_request_refused({ service = "a\nb" }, "'service'", "control character")
    end)
  end)
end)
