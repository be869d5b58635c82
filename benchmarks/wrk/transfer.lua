-- One keyed transfer a request, for wrk: many users, both directions, so that nobody's money runs out.
--
--   python benchmarks/wrk/credit.py http://127.0.0.1:8080
--   wrk -t2 -c32 -d10s --latency -s benchmarks/wrk/transfer.lua http://127.0.0.1:8081
--
-- By environment, the same for both: USERS (1000), FIRST_USER (1), ASSET_ID (1), TOKEN (none; one that may move any
-- user's money). The first answers that are no committed transfers are shown; at the end their number is.

local users = tonumber(os.getenv("USERS") or "1000")
local first_user = tonumber(os.getenv("FIRST_USER") or "1")
local asset_id = os.getenv("ASSET_ID") or "1"
local token = os.getenv("TOKEN")
local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init()
  -- Keys are unique: the second and a fresh table's address tell runs apart.
  run = string.format("%d-%s-%d", os.time(), tostring({}):sub(8), number)
  count = 0
  committed = 0
  other = 0
  headers = { ["Content-Type"] = "application/json" }
  if token then
    headers["Authorization"] = "Bearer " .. token
  end
  rest = ',"asset_id":' .. asset_id .. ',"amount":1000000}'
end

function request()
  count = count + 1
  headers["Idempotency-Key"] = run .. "-" .. count
  local user = first_user + (count * 7919 + number * 104729) % users
  local there = math.floor(count / users) % 2 == 0
  local accounts = there and '{"from":"funding","to":"trading","user_id":' or '{"from":"trading","to":"funding","user_id":'
  return wrk.format("POST", "/api/v1/transfer", headers, accounts .. user .. rest)
end

function response(status, _, body)
  if status == 200 and body:find('"committed"', 1, true) then
    committed = committed + 1
  else
    other = other + 1
    if other <= 3 then
      io.stderr:write(string.format("%d %s\n", status, body))
    end
  end
end

function done(summary, latency, _)
  local committed, other = 0, 0
  for _, thread in ipairs(threads) do
    committed = committed + thread:get("committed")
    other = other + thread:get("other")
  end
  io.write(string.format(
    "transfers: %.0f/s committed, %d answers were others, p50 %.2f ms, p99 %.2f ms\n",
    committed / summary.duration * 1e6, other, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
