-- TLS with the token endpoint. The module icptoken says whether it works, as libcurl will for every request; the
-- program openssl says why it does not.

local http = require "icptoken.command.check.http"
local line = require "icptoken.command.check.line"
local network = require "icptoken.cli.network"
local openssl = require "icptoken.command.check.openssl"
local output = require "icptoken.cli.output"
local probe = require "icptoken.command.check.probe"
local times = require "icptoken.cli.times"
local trust = require "icptoken.command.check.trust"

local tls = {}

local DAY = 86400
local EXPIRES_SOON = 14 * DAY
local MAX_NAMES = 6
-- libcurl's CURLE_SSL_CONNECT_ERROR and CURLE_SSL_PINNEDPUBKEYNOTMATCH.
local HANDSHAKE_FAILED, PIN_MISMATCH = 35, 90

-- Numbers of X509_V_ERR_… in x509_vfy.h, and what they mean here.
local VERIFY_ERRORS = { [9] = "not_yet_valid", [10] = "expired", [18] = "self_signed", [19] = "unknown_ca",
  [20] = "unknown_ca", [21] = "unknown_ca", [62] = "wrong_name", [64] = "wrong_name" }
-- The order in which causes are reported if there are several: who signed a certificate comes before what it says.
local PRECEDENCE = { "self_signed", "unknown_ca", "not_yet_valid", "expired", "wrong_name" }

local function list_names(certificate)
  local names = certificate.names
  local shown = { (table.unpack or unpack)(names, 1, MAX_NAMES) } -- luacheck: ignore 143
  if #names == 0 then return "no names" end
  return table.concat(shown, ", ") .. (#names > MAX_NAMES and (" and %d more"):format(#names - MAX_NAMES) or "")
end

--- The causes that numbers of openssl stand for, most important first.
function tls.list_causes(numbers)
  local has, causes = {}, {}
  for _, number in ipairs(numbers) do has[VERIFY_ERRORS[number] or "other"] = true end
  for _, cause in ipairs(PRECEDENCE) do
    if has[cause] then causes[#causes + 1] = cause end
  end
  return causes
end

-- Each returns a part of a sentence about the certificate, and what to do.
local describe = {}

function describe.unknown_ca(facts)
  local advice = "Pass the cluster's CA with --cacert. It is cfc-certs/router/icp-router.crt of the installation, and "
    .. "ca.crt below /etc/docker/certs.d where docker works."
  if facts.fitting then
    advice = facts.fitting == "system" and "The system's CAs verify it: leave --cacert out."
      or ("%s verifies it: pass --cacert %s"):format(facts.fitting, facts.fitting)
  end
  return ("is issued by %s, which is not in %s"):format(facts.certificate.issuer, trust.describe(facts.options)), advice
end

function describe.self_signed(facts)
  local _, advice = describe.unknown_ca(facts)
  if not facts.fitting then
    advice = "Is this the cluster, or a default certificate of its ingress? Ask its administrators for the CA."
  end
  return ("is self-signed and is not in %s"):format(trust.describe(facts.options)), advice
end

function describe.expired(facts)
  local expiry = facts.certificate.not_after
  return ("expired %s (%s)"):format(times.relative(expiry, facts.now), times.utc(expiry)),
    "Have it renewed on the cluster."
end

function describe.not_yet_valid(facts)
  local start = facts.certificate.not_before
  return ("is not valid until %s (%s)"):format(times.utc(start), times.relative(start, facts.now)),
    "Have it replaced on the cluster."
end

function describe.wrong_name(facts)
  local name = facts.certificate.names[1]
  local advice = "Have one made for the name that you use."
  if name then
    advice = ("Use such a name as --host. Where it has no address: --resolve %s:%d:ADDRESS, or /etc/hosts.")
      :format(name:find "%*" and "NAME" or name, facts.port)
  end
  return ("is for %s, not for %s"):format(list_names(facts.certificate), facts.host), advice
end

-- Whether only the dates are wrong, and they are right by the cluster's clock.
local function is_fault_of_clock(causes, facts)
  if #causes ~= 1 or causes[1] ~= "expired" and causes[1] ~= "not_yet_valid" then return false end
  local certificate, now = facts.certificate, facts.cluster_now
  return now ~= nil and certificate.not_before <= now and now <= certificate.not_after
end

local function judge_verification(causes, facts)
  local subject = ("the certificate of %s:%d"):format(facts.host, facts.port)
  if is_fault_of_clock(causes, facts) then
    return line.warn("clock", ("%s %s, by this machine's clock"):format(subject, (describe[causes[1]](facts))),
      "See the next line.", true)
  end
  local words, advice = {}, nil
  for i, cause in ipairs(causes) do
    local text, what_to_do = describe[cause](facts)
    words[i], advice = text, advice or what_to_do
  end
  return line.fail(causes[1], subject .. " " .. table.concat(words, ", and "), advice)
end

-- A line for a server that does not speak TLS as it should.
local function judge_handshake(facts)
  local where = ("%s:%d"):format(facts.host, facts.port)
  local plain, report = facts.plain or "", facts.report
  if plain:find "^HTTP/" then
    return line.fail("plain_http", ("%s speaks HTTP without TLS"):format(where),
      "Is the port right? ICP's is 8443. For a stand-in without TLS: ICPTOKEN_URL=http://…, and allow_http.")
  elseif plain ~= "" then
    return line.fail("not_tls", ("%s speaks no TLS; it says: %s"):format(where, output.clean(plain:sub(1, 30))),
      "Is the port right? ICP's is 8443.")
  elseif report and report.is_late then
    return line.fail("timeout", ("%s takes connections but does not answer in TLS"):format(where),
      "Is the port right, and the service up? A proxy or firewall in between may be in the way.")
  elseif facts.is_old then
    return line.fail("old_tls", ("%s speaks no version of TLS newer than 1.1"):format(where),
      "Have TLS 1.2 turned on there.")
  elseif report and report.is_complete and facts.curl_code ~= PIN_MISMATCH then
    return line.fail("client_certificate", ("%s wants a certificate of the client"):format(where),
      "Name it as cert and key in the configuration (or $ICPTOKEN_CERT and $ICPTOKEN_KEY).")
  end
  return line.fail(facts.curl_code == PIN_MISMATCH and "pin" or "handshake", facts.message)
end

local function judge_success(facts)
  local certificate = facts.certificate
  if facts.options.insecure then
    local causes = facts.report and tls.list_causes(facts.report.errors) or {}
    local verdict = causes[1] and certificate and "; it " .. describe[causes[1]](facts) or ""
    return line.warn("insecure", "the certificate is not verified" .. verdict,
      "Leave --insecure out, and pass --cacert: anyone in between can read your credential.")
  end
  if not certificate then return line.ok "the certificate is verified" end
  local text = ("the certificate is for %s, issued by %s, verified by %s; expires %s"):format(list_names(certificate),
    certificate.issuer, trust.describe(facts.options), times.relative(certificate.not_after, facts.now))
  if certificate.not_after - facts.now < EXPIRES_SOON then
    return line.warn("expires_soon", text, "Have it renewed.")
  end
  return line.ok(text)
end

--- The line for facts: `host`, `port`, `options`, `now`, `cluster_now` (by the header Date); `code`, `message` and
-- `curl_code` of the module's request; where openssl is there, its `report` and `certificate`; `fitting` (a file with
-- CAs that verify it, or "system"), `plain` (what the port answers without TLS), `is_old` (it speaks TLS 1.1).
function tls.judge(facts)
  if facts.code == "proxy" then return line.fail("proxy", facts.message, "Check the proxy, and its user name.") end
  local is_late = facts.report and facts.report.is_late
  if facts.code ~= "tls" and facts.curl_code ~= HANDSHAKE_FAILED and not is_late then return judge_success(facts) end
  local causes = facts.report and facts.certificate and tls.list_causes(facts.report.errors) or {}
  if facts.report and not facts.report.is_complete and facts.is_old then causes = {} end
  if #causes > 0 and not facts.options.insecure then return judge_verification(causes, facts) end
  local judged = judge_handshake(facts)
  if not facts.report and not judged.advice then
    judged.advice = "The program openssl is not installed; it could show more."
  end
  return judged
end

-- The answer to a request without verifying the server, for its Date.
local function request_freely(context)
  local endpoint, peer = context.endpoint, context.peer
  local text = http.request(("%s:%d"):format(endpoint.host, endpoint.port), endpoint.path)
  if endpoint.scheme == "http" then
    return http.parse(probe.exchange(peer.address, endpoint.port, text, context.seconds))
  elseif context.has_openssl then
    return http.parse(openssl.exchange(peer, text, context.seconds))
  end
end

local function look_closer(context, facts)
  local peer, options = context.peer, context.chosen.options
  facts.report = openssl.look(peer, options, context.seconds)
  if facts.report.certificates[1] then facts.certificate = openssl.describe(facts.report.certificates[1]) end
  local is_broken = facts.code == "tls" or facts.curl_code == HANDSHAKE_FAILED
  if is_broken and not facts.report.is_complete then
    facts.is_old = openssl.look(peer, { words = { "-tls1_1", "-cipher", "ALL:@SECLEVEL=0" } },
      context.seconds).is_complete
  elseif is_broken then
    facts.fitting = trust.find_fitting(peer, trust.list_files(context), context.seconds)
  end
end

--- Makes the first request, without a credential, and judges TLS by it.
function tls.run(context)
  context.has_openssl = openssl.is_installed()
  local token, message, code, details = network.fetch(context.chosen, { anonymous = true }, {})
  context.answer = { token = token, message = message, code = code, details = details or {} }
  local sent_at = os.time()
  context.response = request_freely(context)
  local date = http.read_date(context.response)
  context.clock_offset = date and date - math.floor((sent_at + os.time()) / 2)
  if context.endpoint.scheme == "http" then
    return { line.warn("plain_http", "the endpoint is HTTP without TLS",
      "Anyone in between can read your credential.") }
  end
  local endpoint = context.endpoint
  local facts = { host = endpoint.host, port = endpoint.port, options = context.chosen.options, now = os.time(),
    cluster_now = date, code = code, message = message, curl_code = context.answer.details.curl_code }
  if context.has_openssl then look_closer(context, facts) end
  if not facts.certificate and not context.proxy and (code == "tls" or facts.curl_code == HANDSHAKE_FAILED) then
    facts.plain = probe.exchange(context.peer.address, endpoint.port, http.request(endpoint.host, "/"),
      context.seconds / 4)
  end
  return { tls.judge(facts) }
end

return tls
