// A server of net/http on the socket that thead passes in. Nothing but the standard library.
package main

import (
	"context"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

func main() {
	// The first descriptor of LISTEN_FDS is 3.
	listener, err := net.FileListener(os.NewFile(3, "http"))
	if err != nil {
		log.Fatal(err)
	}
	var leaving atomic.Bool
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if leaving.Load() {
			w.Header().Set("Connection", "close")
		}
		w.Header().Set("x-worker", fmt.Sprint(os.Getpid()))
		fmt.Fprintln(w, "hello from Go")
	})}

	told := make(chan os.Signal, 1)
	signal.Notify(told, syscall.SIGTERM)
	finished := make(chan struct{})
	go func() {
		<-told
		// Shutdown closes idle connections at once, and a request may just be on its way on one: for a second clients are
		// told first.
		leaving.Store(true)
		time.Sleep(time.Second)
		if err := server.Shutdown(context.Background()); err != nil {
			log.Print(err)
		}
		close(finished)
	}()

	if err := notify("READY=1"); err != nil {
		log.Fatal(err)
	}
	if err := server.Serve(listener); err != http.ErrServerClosed {
		log.Fatal(err)
	}
	<-finished
}

// notify tells thead how it goes.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	socket, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer socket.Close()
	_, err = socket.Write([]byte(state))
	return err
}
