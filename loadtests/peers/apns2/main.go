// The sender of gorush as a program: one push for each token of a list, over github.com/sideshow/apns2.
//
// gorush's APNs host is a constant, so it cannot be pointed at a simulator; this is the library that it sends with, with
// gorush's own default of 100 pushes at a time, and nothing around it: no HTTP API, no queue, no record of who got what.
// Prints one JSON object: pushes, accepted, seconds, cpuUs (user and system time of this process).
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"flag"
	"log"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sideshow/apns2"
	"github.com/sideshow/apns2/token"
	"golang.org/x/net/http2"
)

func main() {
	host := flag.String("host", "", "where APNs is spoken, https://host:port")
	ca := flag.String("ca", "", "file of the certificate authority")
	key := flag.String("key", "", "file of the .p8 key")
	keyID := flag.String("key-id", "", "id of the key")
	teamID := flag.String("team-id", "", "id of the team")
	topic := flag.String("topic", "", "bundle id")
	tokens := flag.String("tokens", "", "file with one device token a line")
	payload := flag.String("payload", "", "file of the payload")
	concurrent := flag.Int("concurrent", 100, "pushes at a time")
	connections := flag.Int("connections", 1, "clients, each with a connection")
	flag.Parse()

	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(must(os.ReadFile(*ca)))
	bearer := &token.Token{AuthKey: must(token.AuthKeyFromFile(*key)), KeyID: *keyID, TeamID: *teamID}
	clients := make([]*apns2.Client, *connections)
	for i := range clients {
		transport := &http2.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, ReadIdleTimeout: apns2.ReadIdleTimeout}
		clients[i] = &apns2.Client{Token: bearer, Host: *host, HTTPClient: &http.Client{Transport: transport}}
	}
	body := must(os.ReadFile(*payload))
	queue := make(chan string, *concurrent)
	var pushes, accepted atomic.Int64
	var workers sync.WaitGroup
	began := time.Now()
	for i := range *concurrent {
		workers.Add(1)
		go func() {
			defer workers.Done()
			for device := range queue {
				answer, err := clients[i%len(clients)].Push(&apns2.Notification{DeviceToken: device, Topic: *topic, Payload: body})
				pushes.Add(1)
				if err == nil && answer.Sent() {
					accepted.Add(1)
				}
			}
		}()
	}
	file := must(os.Open(*tokens))
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		queue <- lines.Text()
	}
	close(queue)
	workers.Wait()
	seconds := time.Since(began).Seconds()
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	cpu := time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	json.NewEncoder(os.Stdout).Encode(map[string]any{
		"pushes": pushes.Load(), "accepted": accepted.Load(), "seconds": seconds, "cpuUs": cpu.Microseconds(),
	})
}

func must[T any](value T, err error) T {
	if err != nil {
		log.Fatal(err)
	}
	return value
}
