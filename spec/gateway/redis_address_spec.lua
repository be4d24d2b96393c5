-- How Redis is reached: TLS with names, Unix sockets, users and their passwords, databases, host names.

local files = require "support.files"
local name_server = require "support.name_server"
local redis = require "support.redis"
local redis_bed = require "support.redis_bed"
local stub_client = require "stub.client"

local SWAP = redis_bed.SWAP
local null = require "cjson".null

describe("the connection to Redis", function()
  local stub, bed, names, server

  setup(function()
    stub = stub_client.start()
    names = name_server.start "answers"
    bed = redis_bed.open { http = ("lua_ssl_trusted_certificate %s; resolver 127.0.0.1:%d ipv6=off;")
      :format(stub.ca, names.port) }
  end)
  teardown(function()
    redis_bed.close(bed)
    if names then names.stop() end
    if stub then stub:stop() end
  end)
  after_each(function()
    if server then server:stop() end
    server = nil
  end)

  local function start_tls(certificate, key)
    server = redis.start { tls = { certificate = certificate or stub.server_cert, key = key or stub.server_key } }
    return server.port
  end

  local function tls(host, fields)
    local all = { redis = ("rediss://%s:%d"):format(host, server.port) }
    for name, value in pairs(fields or {}) do all[name] = value end
    return bed:make_options(nil, all)
  end

  -- Checks that each of several runs fails, with one line in the log.
  local function assert_refused(one, options, level, words)
    local place = "at " .. options.redis:match "//(.*)$"
    for _ = 1, 4 do
      local reply, problem = one:echo(options, "secret text")
      assert.is_nil(reply)
      assert.is_string(problem)
    end
    local lines = one:list_lines(place)
    assert.equal(1, #lines, table.concat(lines, "\n"))
    assert.matches("^" .. level .. ": Redis ", lines[1])
    assert.matches(words, lines[1], 1, true)
  end

  it("uses TLS with the name in the URL", function()
    start_tls()
    for _ = 1, 3 do assert.equal("hello", bed:echo(tls "localhost", "hello")) end
    -- one connection, and no second handshake
    assert.equal(2, tonumber(server:command("INFO", "clients"):match "connected_clients:(%d+)"))
  end)

  it("uses TLS with another name if the URL has an address", function()
    start_tls()
    assert.equal("hello", bed:echo(tls("127.0.0.1", { server_name = "mycluster.icp" }), "hello"))
  end)

  it("fails with a name that is not in the certificate", function()
    start_tls()
    assert_refused(bed, tls("127.0.0.1", { server_name = "other.icp" }), "emerg",
      "'other.icp' is in the server's certificate")
    assert_refused(bed, tls "redis.example", "emerg", "'redis.example' is in the server's certificate")
    -- an idle connection that was verified for another name is not reused
    assert.equal("hello", bed:echo(tls "localhost", "hello"))
    assert.is_nil((bed:echo(tls("localhost", { server_name = "other.icp" }), "hello")))
    assert.is_nil(server:command("INFO", "commandstats"):find "secret text")
  end)

  it("fails with a certificate of an unknown CA", function()
    local other = redis_bed.open { http = ("lua_ssl_trusted_certificate %s;"):format(stub.other_ca) }
    finally(function() other:close() end)
    start_tls()
    assert_refused(other, tls("127.0.0.1", { server_name = "localhost" }), "emerg",
      "that lua_ssl_trusted_certificate in nginx.conf names the file with the CA")
  end)

  it("fails if nginx trusts no CA", function()
    local other = redis_bed.open()
    finally(function() other:close() end)
    start_tls()
    assert_refused(other, tls("127.0.0.1", { server_name = "localhost" }), "emerg",
      "that lua_ssl_trusted_certificate in nginx.conf names the file with the CA")
  end)

  it("never falls back to plain text if the URL requires TLS", function()
    server = redis.start()
    -- older versions of Redis wait for the end of a line, later ones close the connection
    assert_refused(bed, tls("localhost", { connect_timeout = 2 }), "%l+", "TLS")
    assert.is_nil(server:command("INFO", "commandstats"):find "cmdstat_eval")
  end)

  it("may use a Unix socket", function()
    server = redis.start()
    local options = bed:make_options(nil, { redis = "unix://" .. server.socket .. "?db=2" })
    assert.equal("hello", bed:echo(options, "hello"))
    bed:run(options, { { SWAP, 1, "a", "1" } })
    assert.matches("db2:keys=1", server:command("INFO", "keyspace"))
  end)

  it("may use a name that nginx's resolver finds", function()
    server = redis.start()
    for _ = 1, 3 do
      local options = bed:make_options(nil, { redis = "redis://redis.example:" .. server.port })
      assert.equal("hello", bed:echo(options, "hello"))
    end
  end)

  it("says what to add if nginx has no resolver", function()
    server = redis.start()
    local other = redis_bed.open {}
    finally(function() redis_bed.close(other) end)
    assert_refused(other, other:make_options(nil, { redis = "redis://redis.example:" .. server.port }), "error",
      'no resolver defined to resolve "redis.example"; nginx looks up no host names without a name server: add '
        .. '"resolver ADDRESS;" to the http context of nginx.conf')
  end)

  it("fails in time if the resolver does not answer", function()
    local silent = name_server.start "silent"
    local other = redis_bed.open { http = ("resolver 127.0.0.1:%d ipv6=off;"):format(silent.port) }
    finally(function()
      other:close()
      silent.stop()
    end)
    local options = other:make_options(nil, { redis = "redis://redis.example", timeout = 0.1, connect_timeout = 1 })
    local results = other:run(options, { { SWAP, 1, "a", "1" } }, 8)
    for i, result in ipairs(results) do
      assert.is_nil(result.replies)
      assert.is_false(result.is_late, i)
    end
    assert.equal(1, #other:list_lines "cannot connect (timeout)")
    -- the worker continues to work, also when the resolver gives up
    assert.is_true(other:count(options, "connect") >= 3)
    assert.same({}, other:list_lines "internal error")
  end)

  it("may use IPv6", function()
    server = redis.start { config = "bind 127.0.0.1 -::1" }
    if not server:log():find "::1" and not files.read "/proc/net/if_inet6":find "lo\n" then return end
    local options = bed:make_options(nil, { redis = ("redis://[::1]:%d"):format(server.port) })
    assert.equal("hello", bed:echo(options, "hello"))
  end)

  describe("with a user", function()
    local function start()
      server = redis.start { users = "user default off\nuser one on >password-1 ~a* +eval +evalsha +set +get\n"
        .. "user t%wo on >password-2 ~b* +@all\n" }
    end

    local function with(user, password, fields)
      local all = { redis = ("redis://%s@127.0.0.1:%d"):format(user, server.port),
        password_file = bed:write_private(password .. "\n") }
      for name, value in pairs(fields or {}) do all[name] = value end
      return bed:make_options(nil, all)
    end

    it("sends its name and the password of a file, on a new connection only", function()
      start()
      local options = with("one", "password-1")
      for i = 1, 5 do assert.equal(tostring(i), bed:echo(options, i)) end
      local own_and_nginx = server:command("INFO", "commandstats"):match "cmdstat_auth:calls=(%d+)"
      for i = 1, 5 do assert.equal(tostring(i), bed:echo(options, i)) end
      -- command() adds the only other one
      assert.equal(own_and_nginx + 1, tonumber(server:command("INFO", "commandstats"):match "cmdstat_auth:calls=(%d+)"))
    end)

    local function swap(options, name, value)
      local result = bed:run(options, { { SWAP, 1, name, value } })[1]
      return result.replies or result.problem
    end

    it("never uses a connection of another user or database", function()
      start()
      local one, two = with("one", "password-1"), with("t%25wo", "password-2")
      local in_database = with("t%25wo", "password-2")
      in_database.redis = in_database.redis .. "/5"
      for i = 1, 3 do
        assert.same({ i > 1 and "1" or null }, swap(one, "a", "1"))
        assert.same({ i > 1 and "2" or null }, swap(two, "b", "2"))
        assert.same({ i > 1 and "3" or null }, swap(in_database, "b", "3"))
        assert.same({ false }, swap(one, "b", "2")) -- which only user t%wo may
      end
    end)

    it("reports a wrong password, and does not log it", function()
      start()
      for _, row in ipairs { { "one", "password-2" }, { "three", "password-1" } } do
        local options = with(row[1], row[2])
        for _ = 1, 4 do assert.is_nil((bed:echo(options, "x"))) end
      end
      assert.is_true(#bed:list_lines "the user name or the password is wrong (WRONGPASS)" >= 1)
      assert.is_nil(bed.server:log():find "password%-%d")
    end)
  end)
end)
