-- The server has restarted: what it remembers may be older than what replicas know. Counting begins anew, once.

local current = redis.call('GET', ns .. ':epoch')
if epoch == '' or not current or epoch == current then
  redis.call('SET', ns .. ':epoch', micros)
  redis.call('DEL', ns .. ':replicas')
end
return 'ok'
