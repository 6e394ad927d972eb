# The XenStore daemon of this dom0: which one it is, and what is known of its process.

LOG=/var/log/xen/fastxs.log
case ${fx_store:-fastxs} in
fastxs) STORE=/opt/fastxs/bin/fastxsd STORE_ARGS="--log-file $LOG" ;;
c) STORE=/usr/lib/xen-4.17/bin/xenstored STORE_ARGS= ;;
ox) STORE=/usr/lib/xen-4.17/bin/oxenstored STORE_ARGS= ;;
esac

PID_FILE=/run/xenstore.pid
[ ! -e /run/xen/xenstored.pid ] || PID_FILE=/run/xen/xenstored.pid # launch-xenstore's

daemon() { pidof fastxsd || cat $PID_FILE; } # fastxs's pid file names its keeper

answers() { timeout 30 xenstore-read -s / >/dev/null 2>&1; } # it asks the kernel, and hangs, where nobody listens

CONSOLE_ARGS="--log=guest --log-dir=/var/log/xen/console"
start_consoles() { xenconsoled --pid-file /run/xenconsoled.pid $CONSOLE_ARGS; }
