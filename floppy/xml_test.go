package floppy

import (
	"strings"
	"testing"
)

// TestXMLTakesWhatDotNetWrites: declaration, byte order mark, CRLF, the schema
// attributes of .NET's serializer, comments.
func TestXMLTakesWhatDotNetWrites(t *testing.T) {
	text := "\xEF\xBB\xBF<?xml version=\"1.0\" encoding=\"utf-8\"?>\r\n" +
		"<IpopConfig xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xmlns:xsd=\"http://www.w3.org/2001/XMLSchema\">\r\n" +
		"  <!-- ours -->\r\n  <IpopNamespace>Gene&#114;ic</IpopNamespace>\r\n</IpopConfig>\r\n"
	f, err := Decode("x.img", []File{config("worker", ""), {IPOPXMLFile, []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Config.Network.Namespace; got != "Generic" {
		t.Errorf("namespace %q", got)
	}
}

func TestXMLDepth(t *testing.T) {
	_, err := DecodeDHCPXML("d", []byte("<DHCPServerConfig>"+strings.Repeat("<a>", 1000)))
	if err == nil || !strings.Contains(err.Error(), "too deep") {
		t.Errorf("error %v", err)
	}
}

// checkXMLError is what every refusal of a first-generation file must be.
func checkXMLError(t *testing.T, text []byte, err error) {
	t.Helper()
	message := err.Error()
	if strings.ContainsAny(message, "\x1b\x07\x00") {
		t.Fatalf("control characters in %q", message)
	}
	for _, leak := range []string{"floppy.", "xml.", "CharsetReader", "strconv"} {
		if strings.Contains(message, leak) && !strings.Contains(string(text), leak) {
			t.Fatalf("%q in %q", leak, message)
		}
	}
}

// FuzzIPOPXML: no panic; what is taken sets nothing but its four keys.
func FuzzIPOPXML(f *testing.F) {
	f.Add(readTestdata(f, "IpopConfig.xml"))
	f.Add([]byte("<IpopConfig><AddressData><Hostname>a</Hostname></AddressData></IpopConfig>"))
	f.Add([]byte("<!DOCTYPE a><IpopConfig/>"))
	f.Fuzz(func(t *testing.T, text []byte) {
		floppy, err := Decode("x", []File{config("worker", ""), {IPOPXMLFile, text}})
		if err != nil {
			checkXMLError(t, text, err)
			return
		}
		n := floppy.Config.Network
		n.Namespace, n.Device, n.Hostname, n.Multicast = "", "", "", false
		if n.Mode != ModeHost || n.MTU != 0 || n.LANInterface != "" || n.Bootstrap != nil {
			t.Fatalf("set more than it may: %+v", n)
		}
		_ = floppy.Config.Validate().Format()
	})
}

// FuzzDHCPXML: no panic; what is taken is a whole IPv4 network.
func FuzzDHCPXML(f *testing.F) {
	f.Add(readTestdata(f, "DHCPServerConfig.xml"))
	f.Add([]byte(dhcpText("Generic", "0.0.0.0", "0.0.0.0", "255.255.255.255", "1")))
	f.Add([]byte(dhcpText("a", "255.255.255.255", "1.2.3.4", "1.2.3.4", "1")))
	f.Fuzz(func(t *testing.T, text []byte) {
		s, err := DecodeDHCPXML("d", text)
		if err != nil {
			checkXMLError(t, text, err)
			return
		}
		if !s.Pool.IsValid() || !s.Pool.Addr().Is4() || s.Pool != s.Pool.Masked() || s.LeaseTime <= 0 || s.Namespace == "" {
			t.Fatalf("taken: %+v", s)
		}
		for _, r := range s.Reserved {
			if !r.Address.Is4() || !r.Mask.Is4() {
				t.Fatalf("reserved: %+v", r)
			}
		}
	})
}
