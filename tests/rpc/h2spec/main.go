// h2spec against a gRPC server: PORT, and a file for the JUnit report.
//
// test_h2spec.py builds it with one function of h2spec replaced, so that each request is one of gRPC.
package main

import (
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/summerwind/h2spec"
	"github.com/summerwind/h2spec/config"
)

func main() {
	port, err := strconv.Atoi(os.Args[1])
	if err == nil {
		_, err = h2spec.Run(&config.Config{
			Host:         "127.0.0.1",
			Port:         port,
			Path:         "/h2spec.Spec/Answer",
			Timeout:      time.Minute, // for an answer, which every case has
			MaxHeaderLen: 4000,
			JUnitReport:  os.Args[2],
			Strict:       true,
		})
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
