---@meta icptoken
-- Annotations for editors (Lua language server). Nothing here is run.

---@alias icptoken.Code
---| "invalid_credential" # the credential cannot be used; nothing was sent
---| "resolve"            # the host's name is not known
---| "connect"            # no connection, or no descriptor left for one
---| "proxy"              # the proxy is away, refuses, or does not speak HTTP
---| "tls"                # the certificate does not verify, or no agreement on TLS
---| "timeout"            # a limit in time
---| "network"            # reset, or an answer cut off
---| "redirect"           # the endpoint points elsewhere; never followed
---| "unauthorized"       # 401
---| "forbidden"          # 403
---| "not_found"          # 404
---| "rate_limited"       # 429
---| "server_error"       # 5xx
---| "http_status"        # any other status
---| "too_large"          # more than max_body_bytes, or 64 KiB of headers
---| "invalid_response"   # no JSON of a token
---| "expired"            # the token had already ended
---| "no_memory"          # memory ran out
---| "closed"             # the client was closed

---What the endpoint said of a refusal.
---@class icptoken.ServerError
---@field code? string
---@field message? string

---@class icptoken.Details
---@field retryable boolean the same call may go well later
---@field attempts integer how often the endpoint was asked
---@field status? integer the HTTP status
---@field errors? icptoken.ServerError[]
---@field retry_after? number seconds, as the server asked
---@field curl_code? integer a CURLcode
---@field url? string without query

---A token as the server sent it, and these.
---@class icptoken.Token
---@field token string the registry JWT
---@field expires_in integer seconds
---@field issued_at? string RFC 3339, as sent
---@field received_at integer epoch seconds
---@field expires_at integer epoch seconds
---@field refresh_at integer epoch seconds
---@field refresh_token? string with offline_token

---@class icptoken.Jwt
---@field header table
---@field claims table not verified
---@field signature string base64url

---What a single request may say; the rest comes from the client.
---@class icptoken.Request
---@field service? string
---@field scope? string|string[] a string is split at spaces
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field realm? string of a challenge; not used
---@field error? string of a challenge; not used

---A request of client:fetch may bring more.
---@class icptoken.FetchRequest: icptoken.Request
---@field id_token? string
---@field username? string
---@field password? string
---@field timeout? number seconds
---@field retries? integer
---@field hedge_after? number seconds

---@class icptoken.Options
---@field host? string name or IP number of the master
---@field port? integer 8443
---@field path? string
---@field url? string instead of host, port and path
---@field allow_http? boolean
---@field id_token? string|fun(): string?, string? a function returns the ID token, or nil and a message
---@field id_token_file? string read for every call on the client; may be a pipe
---@field username? string
---@field password? string
---@field login? { username: string, password: string } logs in by itself
---@field anonymous? boolean
---@field service? string
---@field scope? string|string[]
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field cacert? string file or pipe
---@field capath? string directory
---@field insecure? boolean
---@field cert? string file or pipe
---@field key? string file or pipe
---@field key_password? string
---@field pinned_public_key? string "sha256//…", a file or a pipe
---@field tls_min? "1.2"|"1.3"
---@field timeout? number seconds, 30
---@field connect_timeout? number seconds, 10
---@field retries? integer 2
---@field hedge_after? number seconds until another attempt is made beside one that hangs; off
---@field proxy? string
---@field no_proxy? string
---@field resolve? table<string, string|string[]> "host:port" to IP number
---@field http_version? "1.1"|"2"
---@field headers? table<string, string>
---@field user_agent? string
---@field max_body_bytes? integer 1 MiB
---@field parallel? integer of fetch_all, 16

---@class icptoken.Login
---@field host? string name or IP number of the master
---@field port? integer 8443
---@field path? string
---@field url? string instead of host, port and path
---@field allow_http? boolean
---@field username? string
---@field password? string
---@field cacert? string file or pipe
---@field capath? string directory
---@field insecure? boolean
---@field cert? string file or pipe
---@field key? string file or pipe
---@field key_password? string
---@field pinned_public_key? string
---@field tls_min? "1.2"|"1.3"
---@field timeout? number seconds, 30
---@field connect_timeout? number seconds, 10
---@field retries? integer 2
---@field proxy? string
---@field no_proxy? string
---@field resolve? table<string, string|string[]>
---@field http_version? "1.1"|"2"
---@field headers? table<string, string>
---@field user_agent? string
---@field max_body_bytes? integer 1 MiB

---The identity provider's answer.
---@class icptoken.Identity
---@field id_token string
---@field access_token? string
---@field refresh_token? string
---@field token_type? string
---@field scope? string
---@field expires_in? integer seconds
---@field received_at? integer epoch seconds
---@field expires_at? integer epoch seconds

---@class icptoken.Challenge
---@field realm? string
---@field service? string
---@field scope? string
---@field error? string

---Why one request of fetch_all failed.
---@class icptoken.Failure: icptoken.Details
---@field message string
---@field code icptoken.Code

---@class icptoken.Timings
---@field namelookup number seconds from the start, as the others
---@field connect number
---@field appconnect number
---@field pretransfer number
---@field starttransfer number
---@field total number
---@field connections integer new connections; 0 when a kept one was used

---@class icptoken.Stats
---@field requests integer questions to the endpoint
---@field attempts integer requests sent, retries and log-ins among them
---@field cache_hits integer answers of client:token from the cache
---@field refreshes integer attempts to renew ahead
---@field stale integer answers with the old token because the endpoint failed
---@field failures table<icptoken.Code, integer>
---@field timings icptoken.Timings of the last transfer

---@class icptoken.Client
local client = {}

---Asks the endpoint for a new token.
---@param request? icptoken.FetchRequest
---@return icptoken.Token? token
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:fetch(request) end

---A good token: from the cache, renewed ahead of its end. Not to be modified.
---@param request? icptoken.Request
---@return icptoken.Token? token
---@return string? message nil with a token
---@return icptoken.Code|"fresh"|"cached"|"stale"? code with a token, its source
---@return icptoken.Details? details
function client:token(request) end

---Many tokens at once, no more than option parallel under way. Not cached.
---@param requests icptoken.Request[]
---@return (icptoken.Token|false)[]? tokens false where a request failed
---@return table<integer, icptoken.Failure>|string? errors nil when none failed
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:fetch_all(requests) end

---Forgets the cached entry that holds exactly this token.
---@param token string
---@return boolean? found
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:invalidate(token) end

---Counters, and the timings of the last transfer.
---@return icptoken.Stats? stats
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function client:stats() end

---Frees everything. May be called again.
function client:close() end

---@class icptoken
---@field _NAME "icptoken"
---@field _VERSION string
local icptoken = {}

---Makes a client. Raises on a wrong option.
---@param options icptoken.Options
---@return icptoken.Client? client
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.new(options) end

---One token, no client kept.
---@param options icptoken.Options
---@return icptoken.Token? token
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.fetch(options) end

---Logs in at the identity provider.
---@param options icptoken.Login
---@return icptoken.Identity? identity
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.login(options) end

---The Bearer challenge of a WWW-Authenticate value; fits client:token and client:fetch.
---@param value string
---@return icptoken.Challenge? challenge
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.challenge(value) end

---The parts of a JWT. Nothing is verified.
---@param jwt string
---@return icptoken.Jwt? decoded
---@return string? message
---@return icptoken.Code? code
---@return icptoken.Details? details
function icptoken.decode(jwt) end

---Options of a gateway: these, and those of icptoken.Options for endpoint, TLS and network.
---@class icptoken.GatewayOptions: icptoken.Options
---@field service? string
---@field account? string
---@field client_id? string
---@field offline_token? boolean
---@field timeout? number seconds that a request waits for its token, 10
---@field max_inflight? integer questions to the cluster under way, a worker; 8
---@field max_queue? integer keys that may wait, a worker; 1000
---@field hedge_after? number|false seconds until another attempt is made beside one that hangs; learned
---@field client_address? string|fun(): string a variable of nginx that tells clients apart; "binary_remote_addr"
---@field error_ttl? number seconds for which a refusal is remembered, 5
---@field challenge? "basic"|"bearer"
---@field realm? string of the challenge; with "bearer" a URL
---@field token_user? string a Basic user name whose password is an ID token
---@field delete_actions? string "delete,*"
---@field credential? fun(): icptoken.GatewayCredential? instead of the Authorization header
---@field scope? fun(): (string[]|string)? instead of what method and path say
---@field name? string label of the metrics
---@field dict? string name of the lua_shared_dict, "icptoken"
---@field thread_pool? string name of the thread_pool, "icptoken"

---An ID token, or user name and password.
---@class icptoken.GatewayCredential
---@field id_token? string
---@field username? string
---@field password? string

---@class icptoken.GatewayRequest: icptoken.GatewayCredential
---@field scope? string|string[]
---@field service? string
---@field account? string
---@field client_id? string
---@field offline_token? boolean

---@alias icptoken.GatewayCode icptoken.Code
---| "no_credential"      # the request brings none
---| "name_invalid"       # no endpoint of the registry API
---| "method_not_allowed" # no method of the registry API
---| "queue_full"         # max_queue
---| "overloaded"         # too many wait for the cluster to answer in time
---| "client_gone"        # the client has closed the connection
---| "not_started"        # start() was not called, or the thread pool is missing
---| "internal"           # a fault of the gateway, or of a function in its options

---What require "icptoken.gateway" gives; runs in nginx only.
---@class icptoken.GatewayModule
local gateway_module = {}

---In init_by_lua. Raises on a wrong option.
---@param options icptoken.GatewayOptions
---@return icptoken.Gateway
function gateway_module.new(options) end

---@class icptoken.Gateway
local gateway = {}

---In init_worker_by_lua: begins work.
function gateway:start() end

---In access_by_lua: sets $icptoken_authorization, or answers the request.
function gateway:authorize() end

---In header_filter_by_lua: replaces the challenge of a 401 and drops refused tokens.
function gateway:observe() end

---In set_by_lua: the key of limit_req_zone and limit_conn_zone; "" for a credential that had a token recently.
---@return string
function gateway:limit_key() end

---A token without an effect on the request.
---@param request icptoken.GatewayRequest
---@return string? jwt
---@return "cached"|"stale"|"fresh"|string source or the message
---@return icptoken.GatewayCode? code
---@return { retry_after?: number }? details
function gateway:token(request) end

---In content_by_lua: the token service of challenge = "bearer".
function gateway:login() end

---Text for Prometheus.
---@param ... icptoken.Gateway further ones
---@return string
function gateway:metrics(...) end

return icptoken
