-- Numbers and names are read the same in every locale, whichever was current when the module, or cjson for another
-- module, was loaded. Each case runs in a process of its own.
local cases = require "support.cases"
local interpreter = require "support.interpreter"
local locales = require "support.locales"
local stub = require "stub.client"

local GERMAN, TURKISH, PASHTO = "de_DE.UTF-8", "tr_TR.ISO-8859-9", "ps_AF.UTF-8"

describe("in a locale", function()
  local icp, directory

  setup(function()
    icp = stub.start()
    directory = locales.make { [GERMAN] = "de_DE", [TURKISH] = "tr_TR", [PASHTO] = "ps_AF" }
  end)

  teardown(function()
    icp:stop()
    locales.remove(directory)
  end)

  before_each(function() icp:reset() end)

  local PROLOGUE = [[
    local GERMAN, TURKISH, PASHTO = %q, %q, %q
    local options = { host = "localhost", port = %d, cacert = %q, username = %q, password = %q, retries = 0 }
    local jwt = %q

    local function set(name) assert(os.setlocale(name), name) end

    -- Every way in which a number is read.
    local function check(icptoken)
      local before = os.setlocale()
      local token = assert(icptoken.fetch(options))
      assert(token.expires_in == 12, token.expires_in)
      assert(token.half == 0.5 and token.small == -0.0625 and token.large == 12.5e3, token.half)
      assert(token.list[1] == 1 and token.list[2] == 2 and token.list[3] == 3)
      local answer = assert(icptoken.login(options))
      assert(answer.expires_in == 43199)
      local claims = assert(icptoken.decode(jwt)).claims
      assert(claims.a == 12.5 and claims.b == 3 and claims.c == 1.25e-3)
      assert(os.setlocale() == before)
    end
  ]]

  local function run(body)
    icp:plan { path = "/image-manager/api/v1/auth/token", expires_in = 12.5, times = "forever",
      extra = { half = 0.5, small = -0.0625, large = 12.5e3, list = { 1, 2, 3 } } }
    local jwt = cases.make_jwt '{"a":12.5,"b":3,"c":1.25E-3}'
    local ok, _, output = interpreter.run { env = { LOCPATH = directory },
      code = PROLOGUE:format(GERMAN, TURKISH, PASHTO, icp.port, icp.ca, icp.username, icp.password, jwt) .. body }
    assert.is_true(ok, output)
  end

  it("with a decimal comma that was set after the module was loaded, numbers are read", function()
    run [[
      local icptoken = require "icptoken"
      set(GERMAN)
      check(icptoken)
    ]]
  end)

  it("a host name that libcurl cannot convert to ASCII is refused as early as possible", function()
    run [[
      local icptoken = require "icptoken"
      local changes = { host = "m\195\188ster.icp", anonymous = true, retries = 2, timeout = 20 }
      local function refuse(options, name)
        local ok, problem = pcall(icptoken.new, options)
        assert(not ok and problem:find("option '" .. name .. "'", 1, true) and problem:find("xn--", 1, true), problem)
      end
      refuse(changes, "host")
      refuse({ url = "https://m\195\188ster.icp/", anonymous = true }, "url")
      set(GERMAN)
      local client = icptoken.new(changes)
      set "C" -- only the fetch can notice that
      local _, message, code, details = client:fetch()
      assert(code == "resolve" and details.attempts == 1 and not details.retryable, code)
      assert(message:find("xn--", 1, true), message)
      changes.host = "xn--mster-kva.icp"
      icptoken.new(changes):close()
    ]]
  end)

  it("with a decimal comma a message has a decimal point", function()
    icp:plan { delay = { before = 60 } }
    run [[
      set(GERMAN)
      options.timeout = 0.25
      local _, message = require "icptoken".fetch(options)
      assert(message:find("within 0.25 s", 1, true), message)
    ]]
  end)

  it("without a decimal comma that was set when the module was loaded, numbers are read", function()
    run [[
      set(GERMAN)
      local icptoken = require "icptoken"
      check(icptoken)
      set "C"
      check(icptoken)
    ]]
  end)

  it("other than the one in which another module used cjson last, numbers are read", function()
    run [[
      local icptoken = require "icptoken"
      set(GERMAN)
      require "cjson".new()
      check(icptoken)
      set "C"
      check(icptoken)
      require "cjson".new()
      set(GERMAN)
      check(icptoken)
    ]]
  end)

  it("other users of cjson read the same as before", function()
    run [[
      set(GERMAN)
      local cjson = require "cjson"
      local icptoken = require "icptoken"
      check(icptoken)
      assert(cjson.decode '[12.5,1]'[1] == 12.5)
    ]]
  end)

  it("whose decimal point is not a single byte, the module is loaded and works", function()
    run [[
      set(PASHTO)
      check(require "icptoken")
      assert(os.setlocale() == PASHTO)
    ]]
  end)

  it("in which I and i are different letters, names are compared as in any other", function()
    run [[
      local icptoken = require "icptoken"
      set(TURKISH)
      options.headers = { AUTHORIZATION = "Basic x" }
      local ok, message = pcall(icptoken.new, options)
      assert(not ok and message:find("must not set", 1, true), message)
      options.headers = { ["TRANSFER-ENCODING"] = "chunked" }
      assert(not pcall(icptoken.new, options))
      options.headers = nil
      check(icptoken)
    ]]
  end)
end)
