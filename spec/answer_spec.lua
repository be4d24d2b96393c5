-- How an answer is read: which token it contains, how long that token is valid, when it is to be renewed, and which
-- answers are not usable.

local cases = require "support.cases"
local icptoken = require "icptoken"
local stub_client = require "stub.client"
local testkit = require "testkit"

-- The server's clock in most rows, years behind this machine's, and the epoch second it stands for.
local DATE, EPOCH = "Thu, 30 Nov 2017 05:24:21 GMT", 1512019461
local MAX_SECONDS = 2147483647

local stub
local client

setup(function()
  stub = stub_client.share()
  client = icptoken.new(cases.options(stub))
end)

teardown(function()
  client:close()
  stub:stop()
end)

before_each(function() stub:reset() end)

local function fetch_body(body, date)
  stub:plan { status = 200, body = body, date = date }
  return client:fetch()
end

local function read(body, date)
  return assert(fetch_body(body, date))
end

-- The failure is not retryable, and there was one attempt.
local function refuse(code, body, date)
  local message, details = cases.check_failure(code, { stub.id_token }, fetch_body(body, date))
  assert.matches("localhost:" .. stub.port, message, 1, true)
  assert.equal(200, details.status)
  assert.equal(1, details.attempts)
  return message, details
end

-- The lifetime of a token by its epoch fields is this many seconds. They are rounded down, and fetching takes time.
local function assert_life(seconds, token)
  local life = token.expires_at - token.received_at
  assert.is_true(life <= seconds and life >= seconds - 60, ("lives %d s, not %d s"):format(life, seconds))
end

local function assert_integer(wanted, number)
  assert.equal(wanted, number)
  if math.type then assert.equal("integer", math.type(number)) end
end

-- Each: what, the members of the object, the token (nil: none that is usable).
local TOKENS = {
  { "token", [["token":"abc"]], "abc" },
  { "access_token if there is no token", [["access_token":"abc"]], "abc" },
  { "token if there are both", [["access_token":"other","token":"abc"]], "abc" },
  { "access_token if token is null", [["token":null,"access_token":"abc"]], "abc" },
  { "token if access_token has a wrong type", [["token":"abc","access_token":5]], "abc" },
  { "any b64token", [["token":"AZaz09-._~+/"]], "AZaz09-._~+/" },
  { "a b64token with padding", [["token":"abc=="]], "abc==" },
  { "a long one", '"token":"' .. ("x"):rep(65536) .. '"', ("x"):rep(65536) },
  { "one that is written with escapes", [["token":"\u0061\/c"]], "a/c" },
  { "neither", [["expires_in":60]] },
  { "both null", [["token":null,"access_token":null]] },
  { "an empty token", [["token":""]] },
  { "an empty access_token", [["access_token":""]] },
  { "an empty token beside an access_token", [["token":"","access_token":"abc"]], "abc" },
  { "a token of a wrong type beside an access_token", [["token":5,"access_token":"abc"]] },
  { "a number", [["token":123]] },
  { "a boolean", [["token":true]] },
  { "a list", [["token":["abc"] ]] },
  { "an object", [["token":{"token":"abc"}]] },
  { "a space inside", [["token":"a b"]] },
  { "a space around", [["token":" abc"]] },
  { "a line end", [["token":"abc\r\nX: y"]] },
  { "a NUL", [["token":"abc\u0000"]] },
  { "a letter beyond ASCII", [["token":"caf\u00e9"]] },
  { "a quote", [["token":"a\"b"]] },
  { "padding inside", [["token":"a=b"]] },
  { "padding alone", [["token":"=="]] },
  { "a name in capitals", [["Token":"abc"]] },
  { "a token further down", [["data":{"token":"abc"}]] },
}

describe("the token #short", function()
  for _, case in ipairs(TOKENS) do
    local what, members, wanted = case[1], case[2], case[3]

    if wanted then
      it("is " .. what, function()
        assert.equal(wanted, read("{" .. members .. "}").token)
      end)
    else
      it("is not there with " .. what, function()
        local _, details = refuse("invalid_response", "{" .. members .. "}")
        assert.is_false(details.retryable)
      end)
    end
  end

  it("is returned beside the access_token that it was taken from", function()
    assert.equal("abc", read('{"access_token":"abc"}').access_token)
  end)

  it("is returned beside an access_token that differs from it", function()
    assert.equal("other", read('{"access_token":"other","token":"abc"}').access_token)
  end)

  it("of one answer is not that of the next", function()
    assert.equal("first", read('{"token":"first","extra":1}').token)
    local token = read '{"token":"second"}'
    assert.equal("second", token.token)
    assert.is_nil(token.extra)
  end)
end)

-- Each: what, the JSON of expires_in (nil: absent), the number of seconds (nil: the answer is not usable).
local LIFETIMES = {
  { "absent", nil, 60 }, { "null", "null", 60 }, { "zero", "0", 60 }, { "a zero with a fraction", "0.0", 60 },
  { "a quoted zero", '"0"', 60 }, { "one", "1", 1 }, { "a number", "1800", 1800 },
  { "a number with a fraction of zero", "1800.0", 1800 }, { "a number with an exponent", "1.8e3", 1800 },
  { "quoted", '"1800"', 1800 }, { "a quoted fraction", '"99.9"', 99 },
  { "a fraction", "1800.999", 1800 }, { "the most", "2147483647", MAX_SECONDS },
  { "more than the most", "2147483648", MAX_SECONDS }, { "huge", "1e300", MAX_SECONDS },
  { "quoted and huge", '"1e200"', MAX_SECONDS },
  { "negative", "-1" }, { "a negative fraction", "-0.5" }, { "quoted and negative", '"-60"' },
  { "not finite", "1e400" }, { "not finite below zero", "-1e400" }, { "quoted and not finite", '"1e400"' },
  { "quoted infinity", '"inf"' }, { "quoted and no number", '"nan"' }, { "bare NaN", "NaN" },
  { "bare Infinity", "Infinity" }, { "bare hexadecimal", "0x10" }, { "quoted hexadecimal", '"0x10"' },
  { "a word", '"soon"' }, { "an empty string", '""' }, { "a number and a word", '"60 seconds"' },
  { "true", "true" }, { "a list", "[60]" }, { "an object", "{}" },
}

describe("expires_in", function()
  for _, case in ipairs(LIFETIMES) do
    local what, json, wanted = case[1], case[2], case[3]
    local body = json and ('{"token":"abc","expires_in":%s}'):format(json) or '{"token":"abc"}'

    if wanted then
      it(("that is %s counts as %d"):format(what, wanted), function()
        local token = read(body)
        assert_integer(wanted, token.expires_in)
        assert_life(wanted, token)
      end)
    else
      it("that is " .. what .. " makes the answer unusable", function()
        local _, details = refuse("invalid_response", body)
        assert.is_false(details.retryable)
      end)
    end
  end
end)

-- Each: what, the JSON of issued_at (nil: absent), the seconds of 1800 that are left when the server's clock says
-- 05:24:21. date: another Date header, or false for none.
local AGES = {
  { "now", '"2017-11-30T05:24:21Z"', 1800 },
  { "ten minutes ago", '"2017-11-30T05:14:21Z"', 1200 },
  { "ten minutes ago, with an offset to the east", '"2017-11-30T10:44:21+05:30"', 1200 },
  { "ten minutes ago, with an offset to the west", '"2017-11-29T21:14:21-08:00"', 1200 },
  { "ten minutes ago, with a fraction", '"2017-11-30T05:14:20.999999999Z"', 1200 },
  { "ten minutes ago, in small letters", '"2017-11-30t05:14:21z"', 1200 },
  { "almost the whole life ago", '"2017-11-30T04:54:22Z"', 1 },
  { "longer ago than a life", '"2017-11-30T04:54:20Z"', 1800 },
  { "years ago", '"2001-01-01T00:00:00Z"', 1800 },
  { "in the future", '"2017-11-30T05:24:22Z"', 1800 },
  { "years ahead", '"2099-01-01T00:00:00Z"', 1800 },
  { "absent", nil, 1800 }, { "null", "null", 1800 }, { "a number", "1512018861", 1800 },
  { "an empty string", '""', 1800 }, { "a word", '"yesterday"', 1800 },
  { "a date alone", '"2017-11-30"', 1800 },
  { "without an offset", '"2017-11-30T05:14:21"', 1800 },
  { "in the form of an HTTP date", '"Thu, 30 Nov 2017 05:14:21 GMT"', 1800 },
  { "on a day that was not", '"2017-02-29T05:14:21Z"', 1800 },
  { "at an hour that is not", '"2017-11-30T25:14:21Z"', 1800 },
  { "followed by something", '"2017-11-30T05:14:21Z "', 1800 },
  { "ten minutes ago, and there is no Date", '"2017-11-30T05:14:21Z"', 1800, date = false },
  { "ten minutes ago, and the Date cannot be read", '"2017-11-30T05:14:21Z"', 1800, date = "today" },
  { "ten minutes ago by a Date of the old form", '"2017-11-30T05:14:21Z"', 1200,
    date = "Thursday, 30-Nov-17 05:24:21 GMT" },
}

-- Each: what, the Date, an issued_at, and the seconds of 1800 that are left: all of them if the Date is not valid.
local DATES = {
  { "an asctime date", "Thu Nov 30 05:24:21 2017", "2017-11-30T05:14:21Z", 1200 },
  { "an asctime date of one digit", "Wed Nov  1 05:24:21 2017", "2017-11-01T05:14:21Z", 1200 },
  { "an asctime date of 2040", "Sun Jan  1 00:06:40 2040", "2039-12-31T23:56:40Z", 1200 },
  { "an RFC 850 date of 2040", "Sunday, 01-Jan-40 00:06:40 GMT", "2039-12-31T23:56:40Z", 1200 },
  { "an IMF-fixdate of 2040", "Sun, 01 Jan 2040 00:06:40 GMT", "2039-12-31T23:56:40Z", 1200 },
  { "the leap day of 2400", "Tue, 29 Feb 2400 00:06:40 GMT", "2400-02-28T23:56:40Z", 1200 },
  { "the day after a February of 2100", "Mon, 01 Mar 2100 00:06:40 GMT", "2100-02-28T23:56:40Z", 1200 },
  { "before 1970", "Wed, 31 Dec 1969 23:59:59 GMT", "1969-12-31T23:49:59Z", 1200 },
  { "a date as in mail", "30 Nov 2017 05:24:21 +0000", "2017-11-30T05:14:21Z", 1200 },
  { "a date as in mail, to the west", "Thu, 30 Nov 2017 00:24:21 -0500", "2017-11-30T05:14:21Z", 1200 },
  { "a date of one digit as in mail", "Wed, 1 Nov 2017 05:24:21 GMT", "2017-11-01T05:14:21Z", 1200 },
  { "a date in capitals", "THU, 30 NOV 2017 05:24:21 GMT", "2017-11-30T05:14:21Z", 1200 },
  { "of a wrong day of the week", "Mon, 30 Nov 2017 05:24:21 GMT", "2017-11-30T05:14:21Z", 1200 },
  { "at a leap second", "Sat, 31 Dec 2016 23:59:60 GMT", "2016-12-31T23:50:00Z", 1200 },
  { "the 29th of February 2100", "Mon, 29 Feb 2100 00:06:40 GMT", "2100-02-28T23:56:40Z", 1800 },
  { "at an hour that is not", "Thu, 30 Nov 2017 24:00:00 GMT", "2017-11-30T23:50:00Z", 1800 },
  { "in another zone by its name", "Thu, 30 Nov 2017 05:24:21 CET", "2017-11-30T05:14:21Z", 1800 },
  { "without a zone", "Thu, 30 Nov 2017 05:24:21", "2017-11-30T05:14:21Z", 1800 },
  { "without a time", "Thu, 30 Nov 2017", "2017-11-30T00:00:00Z", 1800 },
  { "of an unknown month", "Thu, 30 Nox 2017 05:24:21 GMT", "2017-11-30T05:14:21Z", 1800 },
  { "of a year of three digits", "Thu, 30 Nov 017 05:24:21 GMT", "2017-11-30T05:14:21Z", 1800 },
  { "followed by something", "Thu, 30 Nov 2017 05:24:21 GMT+1", "2017-11-30T05:14:21Z", 1800 },
  { "in the form of RFC 3339", "2017-11-30T05:24:21Z", "2017-11-30T05:14:21Z", 1800 },
  { "a number", "1512019461", "2017-11-30T05:14:21Z", 1800 },
}

describe("the lifetime of a token", function()
  for _, case in ipairs(AGES) do
    local what, json, left = case[1], case[2], case[3]
    local date = DATE
    if case.date ~= nil then date = case.date end

    it(("with an issued_at that is %s is %d s"):format(what, left), function()
      local issued_at = json and ',"issued_at":' .. json or ""
      local token = read('{"token":"abc","expires_in":1800' .. issued_at .. "}", date)
      assert_life(left, token)
      assert.equal(1800, token.expires_in)
    end)
  end

  for _, case in ipairs(DATES) do
    local what, date, issued_at, left = case[1], case[2], case[3], case[4]

    it(("by a Date that is %s is %d s"):format(what, left), function()
      assert_life(left, read(('{"token":"abc","expires_in":1800,"issued_at":"%s"}'):format(issued_at), date))
    end)
  end

  it("by a Date whose year has two digits is counted from the latest year at most 50 years ahead", function()
    local this_year = tonumber(os.date "!%Y")
    for _, years in ipairs { -49, -1, 0, 1, 49 } do
      local year = this_year + years
      local date = ("Thursday, 30-Nov-%02d 05:24:21 GMT"):format(year % 100)
      local issued_at = ("%d-11-30T05:14:21Z"):format(year)
      assert_life(1200, read(('{"token":"abc","expires_in":1800,"issued_at":"%s"}'):format(issued_at), date))
    end
  end)

  it("that is over according to issued_at is code expired", function()
    refuse("expired", '{"token":"abc","expires_in":1800,"issued_at":"2017-11-30T04:54:21Z"}', DATE)
  end)

  it("does not depend on the Date of an interim answer", function()
    local body = '{"token":"abc","expires_in":1800,"issued_at":"2017-11-30T05:14:21Z"}'
    stub:plan { raw = ("HTTP/1.1 103 Early Hints\r\nDate: %s\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s")
      :format(DATE, #body, body) }
    assert_life(1800, assert(client:fetch()))
  end)

  for _, offset in ipairs { -86400 * 1000, -3600, 3600, 86400 * 1000 } do
    it(("does not depend on a server's clock that is %d s off"):format(offset), function()
      stub:set { clock_offset = offset }
      assert_life(1800, assert(client:fetch()))
    end)
  end
end)

local function claims(text)
  return (text:gsub("DATE([-+]%d+)", function(seconds) return ("%d"):format(EPOCH + seconds) end))
end

-- Each: what, the claims (DATE±n is the server's clock), the seconds of 1800 that are left (nil: expired).
local CLAIMS = {
  { "exp that comes sooner", '{"iat":DATE-0,"exp":DATE+100}', 100 },
  { "exp that comes sooner, and no iat", '{"exp":DATE+100}', 100 },
  { "exp that comes sooner, with a fraction", '{"iat":DATE-0,"exp":DATE+99.75}', 100 },
  { "exp that comes sooner, further behind",
    '{"iss":"a\\"exp\\":1","aud":["b"],"iat":DATE-9, "exp" : DATE+100 }', 100 },
  { "exp that comes later", '{"iat":DATE-0,"exp":DATE+9999}', 1800 },
  { "exp at the same time", '{"iat":DATE-0,"exp":DATE+1800}', 1800 },
  { "exp that is huge", '{"iat":DATE-0,"exp":1e300}', 1800 },
  { "exp equal to iat", '{"iat":DATE-0,"exp":DATE+0}', 1800 },
  { "exp equal to iat, long ago", '{"iat":1000,"exp":1000}', 1800 },
  { "exp equal to iat, soon", '{"iat":DATE+100,"exp":DATE+100}', 1800 },
  { "exp before iat", '{"iat":DATE-10,"exp":DATE-20}', 1800 },
  { "exp that is a string", '{"iat":DATE-0,"exp":"DATE+100"}', 1800 },
  { "exp that is null", '{"iat":DATE-0,"exp":null}', 1800 },
  { "exp further down", '{"access":[{"exp":DATE+100}],"context":{"exp":DATE+100}}', 1800 },
  { "exp in a string", '{"sub":"\\"exp\\":1"}', 1800 },
  { "names that begin like exp and iat", '{"expires":DATE+100,"iata":5}', 1800 },
  { "no exp", '{"iat":DATE-0}', 1800 },
  { "no claims", "{}", 1800 },
  { "claims that are a list", "[1]", 1800 },
  { "claims that break off", '{"iat":DATE-0,"ex', 1800 },
  { "exp that has passed", '{"iat":DATE-100,"exp":DATE-1}' },
  { "exp that has passed, and no iat", '{"exp":DATE-1}' },
  { "exp that is now", '{"iat":DATE-100,"exp":DATE-0}' },
}

describe("a JWT", function()
  for _, case in ipairs(CLAIMS) do
    local what, text, left = case[1], case[2], case[3]

    if left then
      it(("with %s lives %d s"):format(what, left), function()
        local jwt = cases.make_jwt(claims(text))
        local token = read(('{"token":"%s","expires_in":1800}'):format(jwt), DATE)
        assert.equal(jwt, token.token)
        assert_life(left, token)
      end)
    else
      it("with " .. what .. " is code expired", function()
        refuse("expired", ('{"token":"%s","expires_in":1800}'):format(cases.make_jwt(claims(text))), DATE)
      end)
    end
  end

  it("and issued_at limit the lifetime together", function()
    local body = '{"token":"%s","expires_in":1800,"issued_at":"2017-11-30T05:14:21Z"}'
    assert_life(100, read(body:format(cases.make_jwt(claims '{"exp":DATE+100}')), DATE))
    assert_life(1200, read(body:format(cases.make_jwt(claims '{"exp":DATE+1500}')), DATE))
  end)

  it("without iat does not limit the lifetime if there is no Date", function()
    local jwt = cases.make_jwt(claims '{"exp":DATE+100}')
    assert_life(1800, read(('{"token":"%s","expires_in":1800}'):format(jwt), false))
  end)

  -- each: the claims, the Date or false, the seconds of 1800
  for _, case in ipairs {
    { '{"iat":DATE-0,"exp":DATE+100}', false, 100 }, { '{"iat":DATE-0,"exp":DATE+1800}', false, 1800 },
    { '{"iat":DATE-0,"exp":DATE+9999}', false, 1800 }, { '{"iat":DATE+50,"exp":DATE+150}', DATE, 100 },
    { '{"iat":DATE-50,"exp":DATE+50}', DATE, 50 }, { '{"iat":5,"exp":5}', false, 1800 },
  } do
    it(("with %s, a Date that is %s, lives %d s"):format(case[1], tostring(case[2]), case[3]), function()
      assert_life(case[3], read(('{"token":"%s","expires_in":1800}'):format(cases.make_jwt(claims(case[1]))), case[2]))
    end)
  end

  it("in access_token is read as well", function()
    local jwt = cases.make_jwt(claims '{"exp":DATE+100}')
    assert_life(100, read(('{"access_token":"%s","expires_in":1800}'):format(jwt), DATE))
  end)

  it("that is malformed does not limit the lifetime", function()
    for _, token in ipairs { "a.b.c", "..", "a.e30", "a.ey.b.c", ".eyJleHAiOjF9." } do
      assert_life(1800, read(('{"token":"%s","expires_in":1800}'):format(token), DATE))
    end
  end)
end)

-- Each: what, the Age, members of the answer (JWT stands for one of 100 s), the Date or false, the seconds left.
local CACHED = {
  { "none", nil, '"token":"abc","expires_in":1800', DATE, 1800 },
  { "no time", "0", '"token":"abc","expires_in":1800', DATE, 1800 },
  { "ten minutes", "600", '"token":"abc","expires_in":1800', DATE, 1200 },
  { "ten minutes, without a Date", "600", '"token":"abc","expires_in":1800', false, 1200 },
  { "ten minutes after as many", "600",
    '"token":"abc","expires_in":1800,"issued_at":"2017-11-30T05:14:21Z"', DATE, 600 },
  { "a minute, with a JWT", "60", '"token":"JWT","expires_in":1800', DATE, 40 },
  { "a minute, with a JWT and without a Date", "60", '"token":"JWT","expires_in":1800', false, 40 },
  { "an unknown time, as its Age is not a number", "-600", '"token":"abc","expires_in":1800', DATE, 1800 },
  { "so long that the token has expired", "1800", '"token":"abc","expires_in":1800', DATE },
  { "longer than numbers go", ("9"):rep(60), '"token":"abc","expires_in":1800', DATE },
}

describe("an answer that was in a cache for", function()
  for _, case in ipairs(CACHED) do
    it(case[1], function()
      local jwt = cases.make_jwt(claims '{"iat":DATE-0,"exp":DATE+100}')
      local body = "{" .. case[3]:gsub("JWT", jwt) .. "}"
      stub:plan { status = 200, body = body, date = case[4], headers = case[2] and { { "Age", case[2] } } }
      local token, _, code = icptoken.fetch(cases.options(stub))
      if case[5] then
        assert_life(case[5], token)
      else
        assert.equal("expired", code)
      end
    end)
  end
end)

describe("an expired token", function()
  it("is reported as an error of the server", function()
    local jwt = cases.make_jwt(claims '{"iat":DATE-100,"exp":DATE-1}')
    local message = refuse("expired", ('{"token":"%s"}'):format(jwt), DATE)
    assert.matches("clock", message, 1, true)
  end)
end)

describe("refresh_at", function()
  for _, life in ipairs { 10, 60, 100, 1000, 1800, 86400, MAX_SECONDS } do
    it(("for a lifetime of %d s is a leeway and a window before the expiry"):format(life), function()
      local leeway, window = math.min(10, life / 10), math.min(300, life / 5)
      for _ = 1, 5 do
        local token = read(('{"token":"abc","expires_in":%d}'):format(life))
        local ahead = token.expires_at - token.refresh_at
        assert.is_true(ahead >= leeway + window * 0.9 - 1, ("only %d s ahead"):format(ahead))
        assert.is_true(ahead <= leeway + window * 1.1 + 1, ("%d s ahead"):format(ahead))
      end
    end)
  end

  it("depends on the lifetime that is left", function()
    local token = read('{"token":"abc","expires_in":1800,"issued_at":"2017-11-30T04:56:01Z"}', DATE)
    assert_life(100, token)
    assert.is_true(token.expires_at - token.refresh_at <= 10 + 20 * 1.1 + 1)
  end)

  it("varies at random", function()
    local seen, different = {}, 0
    for _ = 1, 20 do
      local token = read '{"token":"abc","expires_in":86400}'
      local ahead = token.expires_at - token.refresh_at
      if not seen[ahead] then different = different + 1 end
      seen[ahead] = true
    end
    assert.is_true(different > 5, different .. " different values")
  end)
end)

describe("the table of an answer", function()
  it("leaves out what is null, at every depth", function()
    local token = read '{"token":"abc","a":null,"b":{"c":null,"d":{"e":null,"f":"g"}},"h":[{"i":null}]}'
    assert.is_nil(token.a)
    assert.same({ d = { f = "g" } }, token.b)
    assert.same({ {} }, token.h)
  end)

  it("leaves a gap for a null in a list", function()
    local token = read '{"token":"abc","list":["x",null,"z"]}'
    assert.equal("x", token.list[1])
    assert.is_nil(token.list[2])
    assert.equal("z", token.list[3])
  end)

  it("has whole numbers as integers, at every depth", function()
    local token = read '{"token":"abc","a":1800.0,"b":{"c":[7,[-3,{"d":1e3}]]},"e":0,"f":9007199254740991}'
    assert_integer(1800, token.a)
    assert_integer(7, token.b.c[1])
    assert_integer(-3, token.b.c[2][1])
    assert_integer(1000, token.b.c[2][2].d)
    assert_integer(0, token.e)
    assert_integer(9007199254740991, token.f)
  end)

  it("leaves fractions as they are", function()
    local token = read '{"token":"abc","a":0.5,"b":[-1.25]}'
    assert.equal(0.5, token.a)
    assert.equal(-1.25, token.b[1])
  end)

  it("has strings as they are", function()
    local token = read '{"token":"abc","a":"caf\195\169 \\u20ac \\n \\u0000 1800","b":""}'
    assert.equal("caf\195\169 \226\130\172 \n \0 1800", token.a)
    assert.equal("", token.b)
  end)

  it("has booleans as they are", function()
    local token = read '{"token":"abc","a":true,"b":false}'
    assert.is_true(token.a)
    assert.is_false(token.b)
  end)

  it("has the module's own times in place of the server's", function()
    local token = read '{"token":"abc","expires_at":"never","refresh_at":null,"received_at":{}}'
    for _, name in ipairs { "expires_at", "refresh_at", "received_at" } do assert.is_number(token[name]) end
  end)

  it("may have white space around it", function()
    assert.equal("abc", read ' \r\n\t{ "token" : "abc" }\r\n'.token)
  end)

  it("is not affected by what a program does to cjson", function()
    local cjson = require "cjson"
    local depth = cjson.decode_max_depth()
    cjson.decode_max_depth(1)
    local ok, token = pcall(read, '{"token":"abc","a":[[1]]}')
    cjson.decode_max_depth(depth)
    assert.is_true(ok, token)
  end)
end)

-- Each: what, the body, and words of the message beside its sample (by default the beginning of the body).
local UNUSABLE = {
  { "a list", '["token"]' }, { "a string", '"token"' }, { "a number", "17" }, { "true", "true" }, { "null", "null" },
  { "an object that is not closed", '{"token":"abc"' }, { "half an object", '{"token":' }, { "a brace", "{" },
  { "an object closed twice", '{"token":"abc"}}' }, { "two objects", '{"token":"abc"}{"token":"abc"}' },
  { "a comma too many", '{"token":"abc",}' }, { "single quotes", "{'token':'abc'}" },
  { "names without quotes", "{token:abc}" }, { "a comment", '{"token":"abc"/**/}' },
  { "a form", "token=abc" }, { "garbage", "\127\1\2\3", "[4 bytes that are not text]" },
  { "a web page", "<html><body>Log in</body></html>" }, { "a token alone", "abc" },
  { "a byte order mark", "\239\187\191{}" },
  { "a NUL byte behind the object", '{"token":"abc"}\0', "[16 bytes that are not text]" },
  { "a number that is not finite", '{"token":"abc","a":1e400}' },
  { "a number that is not finite, further down", '{"token":"abc","a":[{"b":-1e999}]}' },
  { "NaN", '{"token":"abc","a":NaN}' },
  { "endlessly nested lists", '{"token":"abc","a":' .. ("["):rep(5000) .. ("]"):rep(5000) .. "}",
    '{"token":"abc","a":[[[[' },
  { "endlessly nested objects", ('{"a":'):rep(5000) .. "1" .. ("}"):rep(5000), '{"a":{"a":{"a":' },
  { "an invalid escape", '{"a":"b\\xc"}' },
}

describe("an answer is not usable that is", function()
  for _, case in ipairs(UNUSABLE) do
    local what, body, sample = case[1], case[2], case[3] or case[2]

    it(what .. ", and the message shows how it begins", function()
      local message, details = refuse("invalid_response", body)
      assert.matches(sample, message, 1, true)
      assert.is_false(details.retryable)
      assert.is_nil(details.errors)
    end)
  end

  for _, body in ipairs { "", " ", "\r\n" } do
    it(("empty (%d bytes)"):format(#body), function()
      refuse("invalid_response", body)
    end)
  end

  it("a list, and the next answer is read all the same", function()
    refuse("invalid_response", "[]")
    assert(client:fetch())
  end)
end)

describe("a body", function()
  local LIMIT = 1000
  local small

  setup(function() small = icptoken.new(cases.options(stub, { max_body_bytes = LIMIT, retries = 2 })) end)
  teardown(function() small:close() end)

  local function make_body(bytes)
    local front, back = '{"token":"', '"}'
    return front .. ("x"):rep(bytes - #front - #back) .. back
  end

  local function assert_too_large(order)
    stub:plan(order)
    local message, details = cases.check_failure("too_large", {}, small:fetch())
    assert.matches("localhost:" .. stub.port, message, 1, true)
    assert.matches(tostring(LIMIT), message, 1, true)
    assert.is_false(details.retryable)
    assert.equal(1, #stub:requests())
  end

  for _, framing in ipairs { "length", "chunked", "close" } do
    it("may have max_body_bytes with framing " .. framing, function()
      stub:plan { status = 200, body = make_body(LIMIT), framing = framing }
      assert(small:fetch())
    end)

    it("with one byte more is too large with framing " .. framing, function()
      assert_too_large { status = 200, body = make_body(LIMIT + 1), framing = framing }
    end)
  end

  it("of a refusal has the same limit, but its status is still reported", function()
    for _, size in ipairs { LIMIT, LIMIT + 1 } do
      stub:plan { status = 503, body = ("x"):rep(size) }
      assert(small:fetch()) -- it was tried again
      assert.equal(2, #stub:requests())
      stub:reset()
    end
  end)

  it("that is too large does not affect the next fetch", function()
    assert_too_large { status = 200, body = make_body(LIMIT + 1) }
    stub:plan { status = 200, body = make_body(LIMIT) }
    assert(small:fetch())
  end)

  it("may have 1 MiB by default", function()
    read(make_body(1024 * 1024))
    refuse("too_large", make_body(1024 * 1024 + 1))
  end)
end)

describe("the head", function()
  local function make_headers(bytes)
    return { { "X-Filler", ("x"):rep(bytes / 2) }, { "X-Filler", ("x"):rep(bytes / 2) } }
  end

  it("may be large", function()
    stub:plan { headers = make_headers(60000) }
    assert(client:fetch())
  end)

  it("may have 64 KiB and no more", function()
    stub:plan { headers = make_headers(65536) }
    cases.check_failure("too_large", {}, client:fetch())
  end)

  it("is counted separately for each attempt", function()
    stub:plan({ status = 503, headers = make_headers(40000) }, { headers = make_headers(40000) })
    assert(client:fetch { retries = 1 })
  end)
end)

-- A continuation line (obs-fold) before any header. libcurl before 8.1 appends it to the last header of the answer that
-- the handle had before, which has been freed: the process crashes. With a new handle it refuses the answer, and
-- from 8.3 on it reads the line as a header.
describe("a header line that continues nothing", function()
  local BODY = [[{"token":"abc"}]]
  local ANSWER = ("HTTP/1.1 200 OK\r\n\tX-Folded: %s\r\nContent-Length: %d\r\n\r\n%s")
    :format(("x"):rep(200), #BODY, BODY)

  local function assert_harmless(token, message, code, details)
    if token then return assert.equal("abc", token.token) end
    cases.check_failure("network", { stub.id_token }, token, message, code, details)
    assert.matches("is not HTTP", message, 1, true)
  end

  local function use_twice(changes, use)
    local used = icptoken.new(cases.options(stub, changes))
    assert(used:fetch())
    for _ = 1, 2 do use(used) end
    assert(used:fetch())
    used:close()
  end

  local function fetch_it(used)
    stub:plan { raw = ANSWER }
    assert_harmless(used:fetch())
  end

  it("does no harm to a client", function() use_twice({}, fetch_it) end)

  it("is not reported as a fault of the client certificate", function()
    use_twice({ port = stub.ports.client_cert, cert = stub.client_cert, key = stub.client_key }, fetch_it)
  end)

  it("does no harm to a client that sends many requests", function()
    use_twice({}, function(used)
      local requests = { {}, {}, {} }
      assert(used:fetch_all(requests)) -- so that their handles have been used
      stub:plan { raw = ANSWER, times = 3 }
      local tokens, errors = used:fetch_all(requests)
      for n = 1, 3 do
        local failure = errors and errors[n] or {}
        assert_harmless(tokens[n] or nil, failure.message, failure.code, failure)
      end
    end)
  end)

  it("does no harm to a client that logs in", function()
    local credential = { username = stub.username, password = stub.password }
    use_twice({ id_token = false, login = credential }, function(used)
      assert(used:fetch())
      stub:plan({ status = 401 }, { raw = ANSWER })
      local token, message, code, details = used:fetch()
      -- if the line is read as a header, the answer is one to a login and contains no ID token
      if code == "invalid_response" then return assert.matches("contains no id_token", message, 1, true) end
      assert_harmless(token, message, code, details)
    end)
  end)
end)

-- Each: what has no end, and its framing. The stub offers 50 MB of it.
local ENDLESS = {
  { "body", "length" }, { "body", "chunked" }, { "body", "close" }, { "headers", "length" }, { "interim", "length" },
  { "trailers", "chunked" },
}

describe("an answer without end", function()
  local ROOM = 16 * 1024 * 1024

  for _, case in ipairs(ENDLESS) do
    local what, framing = case[1], case[2]

    it(("in its %s is too large, and does not take more and more memory (framing %s)"):format(what, framing), function()
      stub:plan { endless = what, framing = framing, body = '{"token":"abc"}' }
      local before = testkit.resident()
      local message, details = cases.check_failure("too_large", {}, client:fetch())
      assert.is_true(testkit.resident() - before < ROOM)
      assert.matches("localhost:" .. stub.port, message, 1, true)
      assert.equal(1, details.attempts)
      assert(client:fetch())
    end)
  end
end)
