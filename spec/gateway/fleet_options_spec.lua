-- The option `fleet`: values that are refused when nginx starts, with a message that names the field and no secret.

local docs = require "support.docs"
local files = require "support.files"
local redis_bed = require "support.redis_bed"
local shell = require "support.shell"
local testkit = require "testkit"

local SECRET = ("A"):rep(42) .. "8="

-- Lua text of a plain value.
local function to_lua(value)
  if type(value) == "string" then return ("%q"):format(value) end
  if type(value) ~= "table" then return (tostring(value):gsub("^inf$", "1/0")) end
  local parts = {}
  for name, member in pairs(value) do parts[#parts + 1] = ("[%s]=%s"):format(to_lua(name), to_lua(member)) end
  return "{" .. table.concat(parts, ",") .. "}"
end

describe("the option fleet", function()
  local bed, dir

  local function run_shell(command)
    local output = shell.run(command)
    return (output:gsub("\n$", ""))
  end

  local function write(name, text, mode)
    local path = dir .. "/" .. name
    files.write(path, text)
    run_shell(("chmod %s %s"):format(mode or "600", path))
    return path
  end

  setup(function()
    dir = run_shell "mktemp -d"
    bed = redis_bed.open()
  end)
  teardown(function()
    redis_bed.close(bed)
    if dir then run_shell("rm -rf " .. dir) end
  end)

  -- The option with these fields; NONE stands for a field that is left out.
  local NONE = {}
  local function make(fields)
    local all = { redis = "redis://10.0.0.9:6379", secret_file = write("secret", SECRET .. "\n") }
    for name, value in pairs(fields) do all[name] = value ~= NONE and value or nil end
    return all
  end

  local function read(fields)
    local ok, settings = bed:read_options(to_lua(make(fields)))
    assert.is_true(ok, settings)
    return settings
  end

  local function assert_refused(fields, name, words)
    local ok, message = bed:read_options(to_lua(make(fields)))
    assert.is_false(ok, words)
    assert.matches("icptoken.gateway: option 'fleet." .. name .. "' ", message, 1, true)
    assert.matches(words, message, 1, true)
    assert.is_nil(message:find "hunter2")
    assert.is_nil(message:find(SECRET, 1, true))
  end

  it("needs two fields only", function()
    local settings = read {}
    assert.same({ is_tls = false, host = "10.0.0.9", port = 6379, has_port = true, database = 0 }, settings.address)
    assert.same({ 0.1, 0.05 }, { settings.timeout, settings.connect_timeout })
    assert.same({ 32, 32 }, { settings.secret, settings.key })
  end)

  it("accepts addresses of all kinds", function()
    local password_file = write("password", "hunter2\n")
    for url, expected in pairs {
      ["redis://redis.example"] = { host = "redis.example", port = 6379, has_port = false, database = 0 },
      ["redis://redis.example/"] = { host = "redis.example", port = 6379, has_port = false, database = 0 },
      ["redis://g%40w@h:1/15"] = { user = "g@w", host = "h", port = 1, has_port = true, database = 15 },
      ["redis://[2001:db8::9]:7000"] = { host = "2001:db8::9", port = 7000, has_port = true, database = 0 },
      ["unix:///run/redis/redis.sock"] = { path = "/run/redis/redis.sock", database = 0 },
      ["unix://gw@/run/a%20b?db=3"] = { user = "gw", path = "/run/a b", database = 3 },
    } do
      expected.is_tls = false
      assert.same(expected, read({ redis = url, password_file = password_file }).address)
    end
    local settings = read { redis = "rediss://redis.example:6380" }
    assert.is_true(settings.address.is_tls)
    settings = read { redis = "rediss://gw@/1", password_file = password_file, sentinels = { "10.0.0.1:26379",
      "rediss://s@sentinel.example:26380" }, master = "tokens", sentinel_password_file = password_file,
      server_name = "redis.example" }
    assert.same({ "hunter2", "hunter2" }, { settings.password, settings.sentinel_password })
    assert.same({ { is_tls = false, host = "10.0.0.1", port = 26379, has_port = true, database = 0 }, { is_tls = true,
      user = "s", host = "sentinel.example", port = 26380, has_port = true, database = 0 } }, settings.sentinels)
  end)

  it("is refused without its address or secret", function()
    assert_refused({ redis = NONE }, "redis", "is missing: it must be a URL")
    assert_refused({ secret_file = NONE }, "secret_file", "is missing")
  end)

  it("is refused with malformed addresses", function()
    for url, words in pairs {
      ["http://h"] = "must be a URL that begins with redis://, rediss:// or unix://",
      ["10.0.0.9:6379"] = "must be a URL", ["redis:/h"] = "must be a URL", ["REDIS://h"] = "must be a URL",
      ["redis://:hunter2@h"] = "must not contain a password", ["redis://u:hunter2@h"] = "must not contain a password",
      ["redis://u@h"] = "", ["redis://@h"] = "has a malformed user name",
      ["redis://a%2@h"] = "has a malformed user name",
      ["redis://a%0ab@h"] = "has a malformed user name", ["redis://a b@h"] = "has a malformed user name",
      ["redis://"] = "must name a host", ["redis://:6379"] = "must name a host",
      ["redis://h:0"] = "has a malformed port", ["redis://h:65536"] = "has a malformed port",
      ["redis://h:"] = "has a malformed port", ["redis://h:1x"] = "has a malformed port",
      ["redis://h/x"] = "nothing after the host and port but the number of a database",
      ["redis://h/1?a=b"] = "nothing after the host", ["redis://h?db=1"] = "nothing after the host",
      ["redis://h/10000"] = "nothing after the host", ["redis://h_h"] = false, ["redis://-h"] = "has a malformed host",
      ["redis://h h"] = "has a malformed host", ["redis://[::1"] = "has a malformed", ["redis://h\r\nX"] = "malformed",
      ["unix://run/redis.sock"] = "must have the absolute path of a socket", ["unix:///a?x=1"] = "?db=",
      ["unix:///a?db="] = "?db=",
    } do
      if words == "" then
        assert_refused({ redis = url }, "password_file", "is missing")
      elseif words then
        assert_refused({ redis = url }, "redis", words)
      else
        read { redis = url }
      end
    end
  end)

  it("is refused with fields that do not go together", function()
    local sentinels = { "10.0.0.1:26379" }
    assert_refused({ redis = "rediss://10.0.0.9" }, "server_name", "nginx verifies certificates only by names")
    assert_refused({ redis = "redis:///0", sentinels = sentinels }, "master", "is missing")
    assert_refused({ master = "tokens" }, "master", "is of no use without 'fleet.sentinels'")
    assert_refused({ sentinel_password_file = "/x" }, "sentinel_password_file", "is of no use")
    assert_refused({ sentinels = sentinels, master = "tokens" }, "redis", "must not name a host")
    assert_refused({ redis = "unix:///a", sentinels = sentinels, master = "tokens" }, "redis", "must not name a host")
    for _, address in ipairs { "10.0.0.1", "h:1/2", "unix:///a", "h:x", "redis://:hunter2@h:1", ":26379" } do
      assert_refused({ redis = "redis:///0", sentinels = { address }, master = "tokens" }, "sentinels", "")
    end
    assert_refused({ redis = "redis:///0", sentinels = { "redis://u@h:1" }, master = "tokens" },
      "sentinel_password_file", "is missing")
    assert_refused({ redis = "redis:///0", sentinels = { "rediss://10.0.0.1:1" }, master = "tokens" }, "server_name",
      "is missing")
  end)

  it("is refused with unknown fields and values of the wrong kind", function()
    assert_refused({ secretfile = "x" }, "secretfile", "is unknown; did you mean 'secret_file'?")
    assert_refused({ [1] = "redis://h" }, "1", "is unknown")
    for name, values in pairs {
      redis = { 1, "", {}, "redis://h\0" }, secret_file = { 1, "" }, password_file = { true },
      server_name = { "10.0.0.1", "a b", "" }, timeout = { 0, -1, 11, "1", math.huge }, connect_timeout = { 0, 11 },
      sentinels = { {}, "h:1", { 1 }, { "h:1", x = "h:2" } }, master = { "", "a b", "a\r\nb", 1 },
    } do
      for _, value in ipairs(values) do assert_refused({ [name] = value }, name, "must be") end
    end
  end)

  describe("with a file", function()
    it("to which others have access is refused", function()
      for _, mode in ipairs { "640", "604", "620", "602", "610", "601", "644", "666", "4640" } do
        assert_refused({ secret_file = write("open", SECRET, mode) }, "secret_file",
          "others than its owner have access to it: chmod 600 the file")
        assert_refused({ password_file = write("open", "hunter2", mode) }, "password_file", "others than its owner")
      end
      for _, mode in ipairs { "600", "400", "700" } do read { secret_file = write("closed", SECRET, mode) } end
    end)

    it("of another user is refused", function()
      if run_shell "id -u" ~= "0" then return end
      local path = write("foreign", SECRET)
      run_shell("chown 12345 " .. path)
      assert_refused({ secret_file = path }, "secret_file", "its owner is neither root nor the user who starts nginx")
    end)

    it("that is not a regular file is refused at once", function()
      assert_refused({ secret_file = dir }, "secret_file", "it is not a regular file")
      assert_refused({ secret_file = "/dev/zero" }, "secret_file", "it is not a regular file")
      testkit.mkfifo(dir .. "/pipe")
      assert_refused({ secret_file = dir .. "/pipe" }, "secret_file", "it is not a regular file")
      local path = dir .. "/absent"
      assert_refused({ secret_file = path }, "secret_file",
        ("names a file that cannot be used, %s: No such file or directory"):format(path))
    end)

    it("may be a symbolic link to one that is private", function()
      run_shell(("ln -sf %s %s/link"):format(write("target", SECRET), dir))
      read { secret_file = dir .. "/link" }
      run_shell(("ln -sf %s %s/link"):format(write("target", SECRET, "644"), dir))
      assert_refused({ secret_file = dir .. "/link" }, "secret_file", "others than its owner")
    end)

    it("that contains no secret is refused", function()
      for _, text in ipairs { "", "\n", "hunter2", ("A"):rep(42), ("A"):rep(40), ("A"):rep(84) .. "==",
        SECRET .. SECRET, SECRET .. "\nx", ("\0"):rep(32), ("A"):rep(42) .. "-=" } do
        assert_refused({ secret_file = write("wrong", text) }, "secret_file",
          'must name a file with 32 random bytes in base64, as "openssl rand -base64 32" writes them')
      end
      assert_refused({ secret_file = write("large", ("A"):rep(5000)) }, "secret_file", "it is larger than 4096 bytes")
      for _, text in ipairs { SECRET, SECRET .. "\r\n", "\n" .. SECRET .. "\n\n" } do
        read { secret_file = write("right", text) }
      end
      assert.equal(32, read({ secret_file = write("made", run_shell "openssl rand -base64 32") }).secret)
    end)

    it("that contains no password is refused", function()
      for _, text in ipairs { "", "\n", "hunter2\nhunter2\n", "hunter2\0", "hunter2\n\n" } do
        assert_refused({ password_file = write("password", text) }, "password_file",
          "must name a file with a password in one line")
      end
      assert.equal("hunter2 \195\164", read({ password_file = write("password", "hunter2 \195\164\r\n") }).password)
    end)
  end)

  it("is documented, and in the types", function()
    local names = bed:list_option_names()
    table.sort(names)
    local in_docs, in_types = {}, {}
    for _, row in ipairs(docs.read_rows(docs.read_section("docs/fleet.md", "The option"))) do
      for name in row[1]:gmatch "`([%l_]+)`" do in_docs[#in_docs + 1] = name end
    end
    local class = files.read "types/icptoken.lua":match "%-%-%-@class icptoken.FleetOptions\n(.-)\n\n"
    for name in class:gmatch "@field ([%l_]+)" do in_types[#in_types + 1] = name end
    table.sort(in_docs)
    table.sort(in_types)
    assert.same(names, in_docs)
    assert.same(names, in_types)
  end)
end)
