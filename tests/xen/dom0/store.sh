# The XenStore daemon of this dom0: which one it is, and what is known of its process.

case ${fx_store:-fastxs} in
fastxs) STORE=/opt/fastxs/bin/fastxsd STORE_ARGS="--config /etc/fastxs.toml" ;;
c) STORE=/usr/lib/xen-4.17/bin/xenstored STORE_ARGS= ;;
ox) STORE=/usr/lib/xen-4.17/bin/oxenstored STORE_ARGS= ;;
esac

PID_FILE=/run/xenstore.pid
[ ! -e /run/xen/xenstored.pid ] || PID_FILE=/run/xen/xenstored.pid # launch-xenstore's

daemon() { pidof fastxsd || cat $PID_FILE; } # fastxs's pid file names its keeper

answers() { timeout 5 xenstore-read -s / >/dev/null 2>&1; } # it asks the kernel, and hangs, where nobody listens

start_consoles() { xenconsoled --pid-file /run/xenconsoled.pid --log=guest --log-dir=/var/log/xen/console; }
