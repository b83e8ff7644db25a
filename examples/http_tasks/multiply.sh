#!/bin/sh
# One request on stdin, one answer on stdout. A listener starts it for each connection:
#   SECRET=whsec_… socat TCP-LISTEN:8081,bind=127.0.0.1,reuseaddr,fork EXEC:./multiply.sh
# or inetd, or a socket unit of systemd with Accept=yes. It needs openssl. `ps` shows the key to users of this machine.
set -euf
LC_ALL=C
cr=$(printf '\r')

answer() {
    printf 'HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s' \
        "$1" "${#2}" "$2"
    exit
}

length=0 id='' at=0 signatures=''
read -r method path _
while IFS= read -r line && [ "$line" != "$cr" ]; do
    value=${line#*:} value=${value# } value=${value%"$cr"}
    case $(printf %s "${line%%:*}" | tr A-Z a-z) in
        content-length) length=$value ;;
        webhook-id) id=$value ;;
        webhook-timestamp) at=$value ;;
        webhook-signature) signatures=$value ;;
    esac
done
case $length$at in *[!0-9]*) answer '400 Bad Request' '' ;; esac
[ "$method $path" = 'POST /multiply' ] || answer '404 Not Found' ''
[ "$length" -le 10000 ] || answer '413 Content Too Large' ''
body=$(dd bs=1 count="$length" 2>/dev/null)

age=$(($(date +%s) - at))
key=$(printf %s "${SECRET#whsec_}" | openssl base64 -d -A | od -An -v -tx1 | tr -d ' \n')
wanted=$(printf %s "$id.$at.$body" | openssl dgst -sha256 -mac HMAC -macopt "hexkey:$key" -binary | openssl base64 -A)
case " $signatures " in *" v1,$wanted "*) ;; *) answer '401 Unauthorized' '' ;; esac
[ "$age" -le 300 ] && [ "$age" -ge -300 ] || answer '401 Unauthorized' ''

x='' y=''
for pair in $(printf %s "$body" | tr '&' ' '); do
    case $pair in
        x=*) x=${pair#x=} ;;
        y=*) y=${pair#y=} ;;
    esac
done
for number in "$x" "$y"; do
    case $number in '' | *[!0-9]*) answer '200 OK' '{"status": "failure", "reason": "x and y must be numbers"}' ;; esac
done
answer '200 OK' "{\"status\": \"success\", \"retval\": $(expr "$x" \* "$y" || true)}"
