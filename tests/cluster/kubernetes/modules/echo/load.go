package main

import (
	"context"
	"encoding/json"
	"flag"
	"io"
	"log"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// outcome counts what became of requests: every one that was begun is in exactly one of the answers or errors.
type outcome struct {
	sync.Mutex
	Sent    int            `json:"sent"`
	Answers map[string]int `json:"answers"` // status, and after a space the version that answered
	Errors  map[string]int `json:"errors"`  // no answer, or none that ended
	Slowest float64        `json:"slowest_seconds"`
}

// load sends requests until its time is over or it is told to stop; those that run then are waited for.
func load(stop context.Context, args []string) {
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	clients := flags.Int("c", 4, "requests at a time")
	length := flags.Duration("d", 10*time.Second, "how long")
	pause := flags.Duration("pause", 5*time.Millisecond, "what a client waits after an answer")
	method := flags.String("method", "POST", "what is not safe to send twice shows a loss that a retry would hide")
	fresh := flags.Bool("fresh", false, "a connection for each request")
	flags.Parse(args)
	if flags.NArg() != 1 {
		log.Fatal("load: one URL is needed")
	}
	stop, cancel := context.WithTimeout(stop, *length)
	defer cancel()
	client := &http.Client{
		Timeout:   30 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: *clients, DisableKeepAlives: *fresh},
	}
	seen := &outcome{Answers: map[string]int{}, Errors: map[string]int{}}
	var running sync.WaitGroup
	for range *clients {
		running.Go(func() {
			for stop.Err() == nil {
				seen.count(client, *method, flags.Arg(0))
				time.Sleep(*pause)
			}
		})
	}
	running.Wait()
	json.NewEncoder(os.Stdout).Encode(seen)
}

func (o *outcome) count(client *http.Client, method, url string) {
	began := time.Now()
	status, version, err := ask(client, method, url)
	o.Lock()
	defer o.Unlock()
	o.Sent++
	o.Slowest = max(o.Slowest, time.Since(began).Seconds())
	if err != nil {
		o.Errors[err.Error()]++
		return
	}
	o.Answers[strings.TrimSpace(status+" "+version)]++
}

func ask(client *http.Client, method, url string) (status, version string, err error) {
	request, err := http.NewRequest(method, url, strings.NewReader("body"))
	if err != nil {
		return "", "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", err
	}
	var told struct{ Version string }
	json.Unmarshal(body, &told)
	status, _, _ = strings.Cut(response.Status, " ")
	if reason := response.Header.Get("x-weft-reject"); reason != "" {
		status += " " + reason
	}
	return status, told.Version, nil
}
