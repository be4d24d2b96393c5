-- Another module may be installed under the name of cjson: whatever it returns or raises, the process goes on, and the
-- failure is reported. Each case runs in a process of its own.
local cases = require "support.cases"
local interpreter = require "support.interpreter"
local stub = require "stub.client"

describe("with another module under the name of cjson", function()
  local icp

  setup(function() icp = stub.start() end)
  teardown(function() icp:stop() end)
  before_each(function() icp:reset() end)

  local PROLOGUE = [[
    local options = { host = "localhost", port = %d, cacert = %q, username = %q, password = %q, retries = 0 }
    local jwt = %q

    -- A module of cjson's form whose decode is this function.
    local function replace(decode)
      local instance = { decode = decode, decode_invalid_numbers = function() end, decode_max_depth = function() end }
      instance.new = function() return instance end
      package.loaded.cjson = instance
      return require "icptoken"
    end

    -- Each way to the decoder: a token, a login, a JWT.
    local function check_refused(icptoken)
      for _, results in ipairs { { icptoken.fetch(options) }, { icptoken.login(options) }, { icptoken.decode(jwt) } } do
        assert(results[1] == nil and type(results[2]) == "string", tostring(results[2]))
        assert(results[3] == "invalid_response", results[3])
        assert(type(results[4]) == "table")
      end
    end
  ]]

  local function run(body)
    local ok, _, output = interpreter.run {
      code = PROLOGUE:format(icp.port, icp.ca, icp.username, icp.password, cases.make_jwt '{"exp":1}') .. body }
    assert.is_true(ok, output)
    return output
  end

  it("cjson.safe serves as cjson does", function()
    run [[
      package.loaded.cjson = require "cjson.safe"
      local icptoken = require "icptoken"
      assert(icptoken.fetch(options).expires_in == 1800)
      assert(icptoken.login(options).id_token)
      assert(icptoken.decode(jwt).claims.exp == 1)
    ]]
  end)

  it("cjson.safe's refusal is reported like cjson's", function()
    local body = [[
      local function failure(...)
        local token, message, code = icptoken.fetch(...)
        assert(token == nil and code == "invalid_response", tostring(code))
        return message
      end
      print(failure(options))
      print((select(2, icptoken.decode(jwt .. "x"))))
      assert(icptoken.decode("e30.e30.") and not icptoken.decode("e30.eyI.") and not icptoken.decode("eyI.e30."))
    ]]
    icp:plan { body = '{"token":', times = "forever" }
    local known = run([[local icptoken = require "icptoken" ]] .. body)
    assert.equal(known,
      run([[package.loaded.cjson = require "cjson.safe" local icptoken = require "icptoken" ]] .. body))
    assert.matches('it begins: {"token":', known, 1, true)
  end)

  it("a refusal whose body it cannot read is reported with a sample", function()
    icp:plan { status = 403, body = '{"errors":', times = "forever" }
    run [[
      package.loaded.cjson = require "cjson.safe"
      local token, message, code, details = require "icptoken".fetch(options)
      assert(token == nil and code == "forbidden" and details.errors == nil)
      assert(message:find('{"errors":', 1, true), message)
    ]]
  end)

  local returned = {
    { "nothing", "return" }, { "a string", "return 'x'" }, { "a number", "return 1" }, { "true", "return true" },
    { "a function", "return print" }, { "a userdata", "return io.stdout" }, { "nil and a table", "return nil, {}" },
    { "nil and a function", "return nil, print" }, { "many values", "return nil, 'x', 'y', 'z'" },
    { "a table with a function in it", "return { token = 'a', id_token = 'a', f = print }" },
    { "a table with itself in it", "local t = { token = 'a', id_token = 'a' } t.t = t return t" },
    { "a table of great depth", "local t = {} local top = t for _ = 1, 1e5 do t.t = {} t = t.t end return top" },
    { "a table with a NaN", "return { token = 'a', id_token = 'a', n = 0 / 0 }" },
  }
  for _, case in ipairs(returned) do
    it(case[1] .. " that it returns is refused", function()
      run(("check_refused(replace(function() %s end))"):format(case[2]))
    end)
  end

  local raised = {
    { "a string", "'x'" }, { "nil", "nil" }, { "a table", "{}" }, { "a function", "print" }, { "a number", "1" },
    { "a table that cannot be shown", "setmetatable({}, { __tostring = function() error {} end })" },
  }
  for _, case in ipairs(raised) do
    it(case[1] .. " that it raises is refused", function()
      run(("check_refused(replace(function() error(%s) end))"):format(case[2]))
    end)
  end

  it("a table with a metatable that it returns is a token without one", function()
    run [[
      local icptoken = replace(function()
        return setmetatable({ token = "abc.def" },
          { __index = error, __newindex = error, __pairs = error, __gc = error })
      end)
      local token = assert(icptoken.fetch(options))
      assert(token.token == "abc.def" and getmetatable(token) == nil)
    ]]
  end)

  it("its use of the client raises an error, and the client works afterwards", function()
    run [[
      local client, tries, decode = nil, {}, require "cjson".decode
      local icptoken = replace(function(text)
        if client then tries = { pcall(client.fetch, client), pcall(client.close, client) } end
        return decode(text)
      end)
      local new = assert(icptoken.new(options))
      client = new
      assert(new:fetch().token)
      assert(tries[1] == false and tries[2] == false)
      client = nil
      assert(new:fetch().token)
      new:close()
    ]]
  end)

  for _, value in ipairs { "true", "'cjson'", "{}", "{ new = 1 }", "{ new = function() end }",
    "{ new = function() return {} end }", "setmetatable({}, { __index = error })" } do
    it("that is " .. value .. ", require raises an error that says so", function()
      local output = run(([[
        package.loaded.cjson = %s
        local ok, message = pcall(require, "icptoken")
        assert(not ok)
        print(message)
      ]]):format(value))
      if not value:find "error" then assert.matches("icptoken needs lua-cjson", output, 1, true) end
    end)
  end
end)
