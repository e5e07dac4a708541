package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"time"
)

// authority signs certificates; its key stays in the cluster's directory and goes with it.
type authority struct {
	cert *x509.Certificate
	key  crypto.Signer
}

const lifetime = 10 * 365 * 24 * time.Hour

func serial() (*big.Int, error) { return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) }

// makePKI writes everything that the components prove themselves and each other with.
func (c *cluster) makePKI() error {
	ca, err := c.makeAuthority("ca", "countersign-e2e-"+c.Name)
	if err != nil {
		return err
	}
	// An authority of its own: whoever holds a certificate of this one is believed about who somebody else is.
	proxyCA, err := c.makeAuthority("front-proxy-ca", "front-proxy-"+c.Name)
	if err != nil {
		return err
	}
	hosts := []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc",
		"kubernetes.default.svc.cluster.local", "127.0.0.1", "10.96.0.1"}
	for _, l := range []struct {
		by     *authority
		file   string
		name   string
		groups []string
		hosts  []string
	}{
		{ca, "server", "kube-apiserver", nil, hosts},
		{ca, "admin", "admin", []string{"system:masters"}, nil},
		{ca, "kubelet-client", "kube-apiserver-kubelet-client", nil, nil},
		{ca, "kwok", "kwok", []string{"system:masters"}, nil},
		{ca, "kube-controller-manager", "system:kube-controller-manager", nil, nil},
		{ca, "kube-scheduler", "system:kube-scheduler", nil, nil},
		{proxyCA, "front-proxy-client", "front-proxy-client", nil, nil},
	} {
		if err := c.issue(l.by, l.file, l.name, l.groups, l.hosts); err != nil {
			return err
		}
	}
	// Service account tokens are signed by this one.
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return fmt.Errorf("cannot make the key for service accounts: %w", err)
	}
	return writePEM(c.pki("sa.key"), 0o600, "RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key))
}

func (c *cluster) makeAuthority(file, name string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("cannot make a key for %s: %w", name, err)
	}
	n, err := serial()
	if err != nil {
		return nil, fmt.Errorf("cannot make a serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("cannot make the authority %s: %w", name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read back the authority %s: %w", name, err)
	}
	return &authority{cert, key}, c.writePair(file, der, key)
}

func (c *cluster) loadAuthority() (*authority, error) {
	read := func(file string) ([]byte, error) {
		b, err := os.ReadFile(c.pki(file))
		if err != nil {
			return nil, fmt.Errorf("cannot read the cluster's authority: %w", err)
		}
		block, _ := pem.Decode(b)
		if block == nil {
			return nil, fmt.Errorf("%s holds no PEM block; take the cluster down and up again", c.pki(file))
		}
		return block.Bytes, nil
	}
	der, err := read("ca.crt")
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", c.pki("ca.crt"), err)
	}
	der, err = read("ca.key")
	if err != nil {
		return nil, err
	}
	key, err := x509.ParseECPrivateKey(der)
	if err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", c.pki("ca.key"), err)
	}
	return &authority{cert, key}, nil
}

// issue writes a certificate for a name in groups; with hosts it also serves.
func (c *cluster) issue(by *authority, file, name string, groups, hosts []string) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("cannot make a key for %s: %w", name, err)
	}
	n, err := serial()
	if err != nil {
		return fmt.Errorf("cannot make a serial number: %w", err)
	}
	t := &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(lifetime),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			t.IPAddresses = append(t.IPAddresses, ip)
		} else {
			t.DNSNames = append(t.DNSNames, h)
		}
	}
	if len(hosts) > 0 {
		t.ExtKeyUsage = append(t.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, by.cert, key.Public(), by.key)
	if err != nil {
		return fmt.Errorf("cannot make a certificate for %s: %w", name, err)
	}
	return c.writePair(file, der, key)
}

func (c *cluster) writePair(file string, der []byte, key *ecdsa.PrivateKey) error {
	k, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("cannot write the key of %s: %w", file, err)
	}
	if err := writePEM(c.pki(file+".crt"), 0o644, "CERTIFICATE", der); err != nil {
		return err
	}
	return writePEM(c.pki(file+".key"), 0o600, "EC PRIVATE KEY", k)
}

func writePEM(path string, mode os.FileMode, kind string, der []byte) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), mode)
}
